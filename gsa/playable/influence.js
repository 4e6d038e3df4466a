// The influence on a photograph: which of its pixels move a pixel of a layer's output, with the weights moving and held.
import { BLUE, changer, choices, frame, make, paint, panel, point, redraw, steer, unpack, written } from "./shared.js";

const TEXTS = {
  wish: "move into the black square and out of it, with each layer in turn.",
  find: "held, se and lka receive nothing from other pixels; moving, they hear of them, but not where the pixel is black. conv, window, gsa and self hear in the dark as far as in the light. In self a pixel has a far larger part in its own output with the weights moving: its query makes them.",
  keys: "Bluest: the largest influence of a map; palest: a thousandth of it, or less; grey: none. With keys: arrows move the pixel. With a finger: tap or draw. Pixels are (row, column), counted from (0, 0) at the top left.",
};
const LARGEST = 64;

// The bytes that Python has compressed.
async function inflate(packed) {
  const bytes = Uint8Array.from(atob(packed), (byte) => byte.charCodeAt());
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export default {
  async render({ model, el }) {
    const data = model.get("data");
    const { side } = data;
    const names = Object.keys(data.tones);
    const tones = Object.fromEntries(await Promise.all(names.map(async (name) => [name, await inflate(data.tones[name])])));
    const colours = unpack(data.pixels, Uint8Array, 255);
    const blue = Array.from({ length: side ** 2 }, () => BLUE).flat();
    const change = changer(model);
    const hand = { side: () => side, at: () => model.get("state").pixel, move: (pixel) => change({ pixel }) };

    const panels = Object.entries({ photograph: "the photograph", moving: "weights moving", held: "weights held" }).map(([name, title]) => {
      const each = panel(side, title, name);
      point(each.view, hand);
      return each;
    });
    const [photo, ...both] = panels;
    photo.element.classList.add("broad-panel");
    paint(photo.canvas, colours);
    const map = make("div", { class: "panels three", role: "application", tabindex: 0 }, ...panels.map((panel) => panel.element));
    map.setAttribute("aria-label", "A photograph, and its influence on one pixel of a layer's output");
    steer(map, hand);
    const choice = choices("Layer", Object.fromEntries(names.map((name) => [name, name])), (layer) => change({ layer }));
    const told = frame(el, TEXTS, [map], choice.element);
    told.closest(".play").classList.add("wide");

    redraw(model, () => {
      const { layer, pixel } = model.get("state");
      const number = pixel[0] * side + pixel[1];
      const starts = [number, side ** 2 + number].map((place) => place * side ** 2);
      const maps = starts.map((start) => Array.from(tones[layer].subarray(start, start + side ** 2), (tone) => tone / LARGEST));
      for (const [index, { canvas }] of both.entries()) paint(canvas, blue, maps[index]);
      for (const { mark } of panels) mark(pixel);
      choice.check(layer);
      const [some, someHeld] = maps.map((values) => values.filter((blueness) => blueness > 0).length);
      const [share, shareHeld] = data.others[layer].map((shares) => unpack(shares, Uint8Array, 100)[number].toFixed(2));
      const light = colours.slice(3 * number, 3 * number + 3).some((value) => value > 0) ? "is not black" : "is black";
      told.textContent =
        `Layer ${layer}. The pixel ${written(pixel)} ${light}. Input pixels that move its output: ${some} of ${side ** 2}; with the ` +
        `weights held, ${someHeld}. Pixels other than itself have ${share} of the influence; with the weights held, ${shareHeld}.`;
    });
  },
};
