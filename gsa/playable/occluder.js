// A cover dragged over a photograph: what a network then answers, beside the maps that should have told.
import { changer, choices, frame, key, make, paint, panel, pixelsOf, redraw, rounded, steer, sum, unpack, written } from "./shared.js";

const TEXTS = {
  wish: "lay the square of 8×8 where CAM is darkest, at (12, 12), where rollout is, at (24, 4), over the eye on the left, at (10, 6), and between the eyes, at (6, 14). At each place change the cover.",
  find: "between the eyes the cat falls under every cover. The eye on the left counts for it in CAM, and without that eye the network is surer of the cat. Where rollout is darkest, next to nothing is lost. Where CAM is darkest, black takes next to nothing, grey and coffee more than 1 of the log odds: the cover has its say. CAM tells where the evidence lies at the end, not what the answer rests on.",
  keys: "Drag the square, or click or tap a place; with keys: arrows move it. Its place is its upper left corner, (row, column), counted from (0, 0). The line in a bar: without a cover. The map of occlusion shows each place of the square at its middle; darkest: log odds that move by 3 or more.",
};
const [FOR, AGAINST, WEIGHT] = [[148, 69, 154], [200, 78, 0], [0, 114, 178]];
const logOdds = (share) => Math.log(share / (1 - share));
const mapped = (values, change) => Object.fromEntries(Object.entries(values).map(([name, value]) => [name, change(value, name)]));

// Calls move([y, x]), in shares of the view, where a pointer presses or a finger draws.
function drag(view, move) {
  const follow = ({ clientX, clientY }) => {
    const { left, top, width, height } = view.getBoundingClientRect();
    move([(clientY - top) / height, (clientX - left) / width]);
  };
  view.addEventListener("pointerdown", (event) => {
    view.setPointerCapture(event.pointerId);
    follow(event);
  });
  view.addEventListener("pointermove", (event) => event.buttons && follow(event));
}

// A row for each class: its name, a bar with a line where it was before, its share.
function drawnShares(classes, answer, whole) {
  const rows = classes.map((name, index) => {
    const before = make("s", { style: `left: ${100 * whole[index]}%` });
    const [bar, share] = [make("i"), make("span")];
    return { bar, share, row: make("div", {}, make("span", {}, name), make("span", { class: "track" }, bar, before), share) };
  });
  const element = make("div", {}, make("div", { class: "shares" }, ...rows.map(({ row }) => row)), make("b", {}, "the network's answer"));
  function draw(shares, other) {
    for (const [index, { bar, share, row }] of rows.entries()) {
      row.className = index === answer ? "for" : index === other ? "against" : "none";
      bar.style.width = `${100 * shares[index]}%`;
      share.textContent = shares[index].toFixed(2);
    }
  }
  return { element, draw };
}

// White for 0, and the farther from it the more of one hue or, below, of the other; nothing where there is no value.
function shade(canvas, values, scale, [above, below]) {
  const mix = (value) => (value > 0 ? above : below).map((part) => 1 + Math.min(1, Math.abs(value) / scale) * (part / 255 - 1));
  paint(canvas, values.flatMap(mix), values.map((value) => !Number.isNaN(value)));
}

function say({ cover, size, corner }, { side, classes, answer }, whole, shares, other, [cam, even, rollout]) {
  const [before, after, next] = [whole[answer], shares[answer], shares[other]].map((share) => share.toFixed(2));
  const fall = logOdds(whole[answer]) - logOdds(shares[answer]);
  const moved = before === after ? "stays at" : `${fall > 0 ? "falls" : "rises"} from ${before} to`;
  return (
    `${size}×${size} pixels of ${cover} at ${written(corner)}: ${classes[answer]} ${moved} ${after}; ` +
    `${shares[other] < shares[answer] ? "next" : "ahead"} is ${classes[other]} with ${next}. The log odds of ${classes[answer]} ` +
    `${fall > 0 ? "lose" : "gain"} ${Math.abs(fall).toFixed(2)}. Under the square CAM has ${rounded(cam)} of them, ` +
    `an even share is ${rounded(even)}; rollout has ${rounded(rollout)} of its weight, an even share is ${rounded((size / side) ** 2)}.`
  );
}

export default {
  render({ model, el }) {
    const data = model.get("data");
    const { side, stride, classes, answer } = data;
    const shares = mapped(data.shares, (sizes) => mapped(sizes, (packed) => unpack(packed, Uint16Array, 65535)));
    const whole = unpack(data.whole, Uint16Array, 65535);
    const [photograph, covers] = [unpack(data.pixels, Uint8Array, 255), mapped(data.covers, (packed) => unpack(packed, Uint8Array, 255))];
    const pixels = pixelsOf(side);
    const [cam, rollout] = [data.cam, data.rollout].map((packed) => {
      const coarse = unpack(packed, Float32Array, 1);
      const across = Math.sqrt(coarse.length);
      const under = (place) => Math.floor((place * across) / side);
      return pixels.map(([row, column]) => coarse[under(row) * across + under(column)] * (across / side) ** 2);
    });

    const state = () => model.get("state");
    const change = changer(model);
    const places = (size) => (side - size) / stride + 1;
    const sharesAt = ({ cover, size }, [row, column]) => {
      const place = (row / stride) * places(size) + column / stride;
      return shares[cover][size].subarray(place * classes.length, (place + 1) * classes.length);
    };
    // The corner of the square whose middle is nearest to a point.
    const cornerAt = (point, size) =>
      point.map((place) => stride * Math.min(places(size) - 1, Math.max(0, Math.round((place - size / 2) / stride))));
    const move = (point) => change({ corner: cornerAt(point, state().size) });
    const resize = (size) => change({ size, corner: cornerAt(state().corner.map((place) => place + state().size / 2), size) });

    const titles = { seen: "covered", occlusion: "occlusion", cam: "CAM", rollout: "rollout" };
    const panels = Object.entries(titles).map(([name, title]) => panel(side, title, name));
    for (const { view } of panels) drag(view, (point) => move(point.map((share) => share * side)));
    const [photo, ...maps] = panels;
    const bars = drawnShares(classes, answer, whole);
    const parts = [photo, bars, ...maps].map(({ element }) => element);
    const map = make("div", { class: "panels occluder", role: "application", tabindex: 0 }, ...parts);
    map.setAttribute("aria-label", "A photograph under a cover, what a network answers, and three maps of that answer");
    steer(map, {
      side: () => places(state().size),
      at: () => state().corner.map((place) => place / stride),
      move: (place) => change({ corner: place.map((step) => step * stride) }),
    });
    const cover = choices("Cover", Object.fromEntries(Object.keys(covers).map((name) => [name, name])), (name) => change({ cover: name }));
    const size = choices("Pixels", mapped(shares[state().cover], (_, each) => `${each}×${each}`), (each) => resize(Number(each)));
    const colours = key({ for: `speaks for ${classes[answer]}`, against: "speaks against it", weight: "weight, without a sign" });
    const told = frame(el, TEXTS, [map, colours], make("div", { class: "sliders" }, cover.element, size.element));
    told.closest(".play").classList.add("wide");

    // Per pixel, how far the log odds fall under the cover whose middle is there.
    const fallsOf = (shown) => {
      const middle = (place) => (place - shown.size / 2 + 1) / stride;
      return pixels.map(([row, column]) => {
        const corner = [row, column].map((place) => stride * Math.floor(middle(place)));
        const known = corner.every((place) => place >= 0 && place <= side - shown.size);
        return known ? logOdds(whole[answer]) - logOdds(sharesAt(shown, corner)[answer]) : NaN;
      });
    };

    redraw(model, () => {
      const shown = state();
      const inside = pixels.map((pixel) => pixel.every((place, axis) => place >= shown.corner[axis] && place < shown.corner[axis] + shown.size));
      const values = sharesAt(shown, shown.corner);
      const other = [...values.keys()].filter((index) => index !== answer).reduce((best, index) => (values[index] > values[best] ? index : best));
      paint(photo.canvas, photograph.map((value, index) => (inside[Math.floor(index / 3)] ? covers[shown.cover][index] : value)));
      shade(maps[0].canvas, fallsOf(shown), data.darkest, [FOR, AGAINST]);
      shade(maps[1].canvas, cam, Math.max(...cam.map(Math.abs)), [FOR, AGAINST]);
      shade(maps[2].canvas, rollout, Math.max(...rollout), [WEIGHT, WEIGHT]);
      for (const { mark } of panels) mark(shown.corner, shown.size);
      maps[0].mark(shown.corner.map((place) => place + shown.size / 2 - 1), stride);
      bars.draw(values, other);
      cover.check(shown.cover);
      size.check(shown.size);
      const under = (map) => sum(map.filter((_, index) => inside[index]));
      const even = sum(cam) * (shown.size / side) ** 2;
      told.textContent = say(shown, data, whole, values, other, [under(cam), even, under(rollout)]);
    });
  },
};
