// The influence on a photograph: which of its pixels move a pixel of a layer's output, with the weights moving and held.
import { choices, frame, make, paint, panel, point, redraw, steer, unpack, written } from "./shared.js";

const TEXTS = {
  wish: "move into the black square and out of it, with each layer in turn.",
  find: "held, se and lka receive nothing from other pixels; moving, they hear of them, but not where the pixel is black. conv, window, gsa and self hear in the dark as far as in the light. In self a pixel has a far larger part in its own output with the weights moving, for it asks.",
  keys: "Bluest: the largest influence of a map; palest: a thousandth of it, or less; grey: none. With keys: arrows move the pixel. With a finger: tap or draw. Pixels are (row, column), counted from (0, 0) at the top left.",
};
const [LARGEST, BLUE] = [64, [0, 114 / 255, 178 / 255]];

// The maps of all output pixels, one after the other, of which each was handed over as what it has more than the last.
function unfold(packed, size) {
  const tones = unpack(packed, Uint8Array, 1);
  for (let index = size; index < tones.length; index++) tones[index] = (tones[index] + tones[index - size]) % 256;
  return tones;
}

export default {
  render({ model, el }) {
    const data = model.get("data");
    const { side } = data;
    const names = Object.keys(data.tones);
    const of = (packed, read) => Object.fromEntries(names.map((name) => [name, packed[name].map(read)]));
    const tones = of(data.tones, (each) => unfold(each, side ** 2));
    const others = of(data.others, (each) => unpack(each, Uint8Array, 100));
    const colours = unpack(data.pixels, Uint8Array, 255);
    const blue = Array.from({ length: side ** 2 }, () => BLUE).flat();
    const change = (part) => {
      model.set("state", { ...model.get("state"), ...part });
      model.save_changes();
    };
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
      const maps = tones[layer].map((all) => all.slice(number * side ** 2, (number + 1) * side ** 2));
      for (const [index, { canvas }] of both.entries()) paint(canvas, blue, maps[index].map((tone) => tone / LARGEST));
      for (const { mark } of panels) mark(pixel);
      choice.check(layer);
      const [some, someHeld] = maps.map((values) => values.filter((tone) => tone > 0).length);
      const [share, shareHeld] = others[layer].map((shares) => shares[number].toFixed(2));
      const light = colours.slice(3 * number, 3 * number + 3).some((value) => value > 0) ? "is not black" : "is black";
      told.textContent =
        `Layer ${layer}. The pixel ${written(pixel)} ${light}. Input pixels that move its output: ${some} of ${side ** 2}; with the ` +
        `weights held, ${someHeld}. Pixels other than itself have ${share} of the influence; with the weights held, ${shareHeld}.`;
    });
  },
};
