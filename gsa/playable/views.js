// One pixel of a photograph, and what each layer of the book lets it see.
import { changer, choices, count, frame, make, paint, panel, point, redraw, steer, written } from "./shared.js";

const TEXTS = {
  wish: "move over the other eye, the nose, the background, and see what stays clear. Then take another photograph.",
  find: "convolution and gate sum over the same offsets wherever the pixel is, but for the border, and whatever the photograph shows; attention finds what is like the pixel, wherever that is.",
  keys: "With keys: arrows move the pixel. With a finger: tap or draw. Pixels are (row, column), counted from (0, 0) at the top left.",
};

// The mean colour of the block of each pixel.
function summarise(colours, side, patch) {
  const means = new Float64Array(colours.length);
  const block = (index) => Math.floor(Math.floor(index / side) / patch) * side + Math.floor((index % side) / patch);
  const sums = new Float64Array(colours.length);
  for (let index = 0; index < side * side; index++) {
    for (let channel = 0; channel < 3; channel++) sums[3 * block(index) + channel] += colours[3 * index + channel];
  }
  for (let index = 0; index < side * side; index++) {
    for (let channel = 0; channel < 3; channel++) means[3 * index + channel] = sums[3 * block(index) + channel] / patch ** 2;
  }
  return means;
}

// For every layer how much each place counts, 1 where it counts most, and whether its block's summary stands for it.
function look(colours, summaries, { side, patch, steps }, [row, column]) {
  const centre = 3 * (row * side + column);
  const like = (values, index) => {
    const [red, green, blue] = [0, 1, 2].map((channel) => values[3 * index + channel] - colours[centre + channel]);
    return Math.exp(-8 * (red * red + green * green + blue * blue));
  };
  const same = (one, other) => Math.floor(one / patch) === Math.floor(other / patch);
  const views = Array.from({ length: 7 }, () => new Float64Array(side * side));
  const [convolution, gate, sampling, everywhere, standAlone, twins, sparse] = views;
  const rest = new Uint8Array(side * side);
  for (let index = 0; index < side * side; index++) {
    const [y, x] = [Math.floor(index / side), index % side];
    const near = Math.max(Math.abs(y - row), Math.abs(x - column));
    const inPatch = same(y, row) && same(x, column);
    const atPlace = y % patch === row % patch && x % patch === column % patch;
    const content = like(colours, index);
    convolution[index] = near < 2;
    gate[index] = near < 1;
    sampling[index] = steps.some(([down, right]) => y === row + down && x === column + right);
    everywhere[index] = content;
    standAlone[index] = near < 4 ? content : 0;
    twins[index] = inPatch ? content : like(summaries, index);
    sparse[index] = atPlace ? 1 : inPatch ? content : 0;
    rest[index] = !inPatch;
  }
  return { views, rest };
}

function say(pixel, views) {
  const [convolution, gate, sampling, everywhere, standAlone] = views;
  const some = (view) => view.filter((weight) => weight > 0).length;
  const strong = everywhere.filter((weight) => weight >= 0.5).length;
  return (
    `For the pixel ${written(pixel)}, convolution sums over ${some(convolution)} pixels, a gate over ${some(gate)}, sampling over ` +
    `${some(sampling)}, stand-alone attention over ${some(standAlone)}, Twins over 64 and then 16 summaries (that of its own ` +
    "block is not drawn), Global Sparse Attention over 16 and then 64. Self-attention sums over all " +
    `${count(everywhere.length)}; those with at least half of the largest weight: ${count(strong)}.`
  );
}

export default {
  render({ model, el }) {
    const data = model.get("data");
    const { side, patch } = data;
    const photographs = data.photographs.map(({ pixels }) => {
      const colours = Float64Array.from(atob(pixels), (byte) => byte.charCodeAt() / 255);
      return { colours, summaries: summarise(colours, side, patch) };
    });
    const change = changer(model);
    const hand = { side: () => side, at: () => model.get("state").pixel, move: (pixel) => change({ pixel }) };

    const panels = Object.entries({ "the photograph": "", ...data.layers }).map(([name, where]) => {
      const each = panel(side, name);
      each.element.append(make("small", {}, where));
      point(each.view, hand);
      return each;
    });
    const map = make("div", { class: "panels", role: "application", tabindex: 0 }, ...panels.map((panel) => panel.element));
    map.setAttribute("aria-label", "A photograph, and what seven layers let one of its pixels see");
    steer(map, hand);
    const credit = make("p", { class: "keys" });
    const titles = Object.fromEntries(data.photographs.map(({ title }, index) => [index, title]));
    const choice = choices("Photograph", titles, (index) => change({ photograph: Number(index) }));
    const told = frame(el, TEXTS, [map], choice.element, credit);
    told.closest(".play").classList.add("wide");

    redraw(model, () => {
      const { photograph, pixel } = model.get("state");
      const { colours, summaries } = photographs[photograph];
      const { views, rest } = look(colours, summaries, data, pixel);
      const withSummaries = colours.map((value, index) => (rest[Math.floor(index / 3)] ? summaries[index] : value));
      for (const [index, { canvas, mark }] of panels.entries()) {
        const weights = views[index - 1]?.map((weight) => 0.08 + 0.92 * weight);
        paint(canvas, index === 6 ? withSummaries : colours, weights);
        mark(pixel);
      }
      choice.check(photograph);
      credit.textContent = `Photograph: ${data.photographs[photograph].credit}.`;
      told.textContent = say(pixel, views);
    });
  },
};
