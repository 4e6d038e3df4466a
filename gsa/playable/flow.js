// Matching two images: the weights with which a pixel of the first finds itself in the second, and their mean place.
import { BLUE, changer, chart, choices, frame, key, make, paint, pixelsOf, point, redraw, rounded, slider, softmax, steer, sum, svg, unpack, written } from "./shared.js";

const TEXTS = {
  wish: "let the rim of the cat's eye look for itself; raise s to 640. Do the same from (18, 27), the rim of the other eye. Then go back to s = 40 and make the patch 7×7. At last move s over the texture, with 7×7 pixels.",
  find: "with 3×3 pixels an eye finds both eyes: two modes, and the mean lies between the eyes, right for neither. A large s leaves one mode, for the second eye the wrong one: between two that are alike noise decides. A patch of 7×7 leaves one, too, and the right one. Over the texture the error falls with s and rises again: where s is small, all pixels pull the mean to the middle; where it is large, the mean is one whole pixel, and nothing evens out the noise.",
  keys: "Bluest: the largest weight. With keys: arrows move the pixel, or a slider. With a finger: tap or draw. Places are (row, column), counted from (0, 0) at the top left.",
};
const REACH = 2;

// The patch around a pixel, its mean taken off, of length one; beyond the border the image goes on as it ends.
function patchToken(bytes, side, patch, [row, column]) {
  const inside = (place) => Math.min(side - 1, Math.max(0, place));
  const [values, reach] = [new Float64Array(3 * patch ** 2), (patch - 1) / 2];
  for (let index = 0; index < patch ** 2; index++) {
    const [down, right] = [Math.floor(index / patch) - reach, (index % patch) - reach];
    const start = 3 * (inside(row + down) * side + inside(column + right));
    for (let channel = 0; channel < 3; channel++) values[3 * index + channel] = bytes[start + channel];
  }
  const mean = sum(values) / values.length;
  const length = Math.sqrt(values.reduce((squares, value) => squares + (value - mean) ** 2, 0));
  return values.map((value) => (value - mean) / Math.max(1e-12, length));
}

// An image without its colours, its black a middle grey.
function pale(colours) {
  const greys = Array.from({ length: colours.length / 3 }, (_, index) => sum(colours.slice(3 * index, 3 * index + 3)));
  const [least, most] = [Math.min(...greys), Math.max(...greys)];
  return greys.map((grey) => 1 - (most - grey) / (most - least) / 2);
}

// The mean place of the weights, and two modes: the largest weight, the largest that is not near, and the weight near each.
function read(weights, places) {
  const mean = [0, 1].map((axis) => sum(weights.map((weight, index) => weight * places[index][axis])));
  let rest = weights;
  const modes = [0, 1].map(() => {
    const most = Math.max(...rest);
    const mode = places[rest.findIndex((weight) => weight >= (1 - 1e-9) * most)]; // of equals, however they were summed
    const near = (place) => place.every((x, axis) => Math.abs(x - mode[axis]) <= REACH);
    const share = sum(rest.filter((_, index) => near(places[index])));
    rest = rest.map((weight, index) => (near(places[index]) ? 0 : weight));
    return { mode, share };
  });
  return { mean, modes };
}

function say({ pixel, patch, scale }, { mean, modes: [one, other] }, end, error) {
  const within = ({ mode, share }) => `${rounded(share)} within two of ${written(mode)}`;
  const place = (values) => written(values.map((value) => rounded(value, 1)));
  const off = Math.hypot(...mean.map((x, axis) => x - end[axis]));
  return (
    `${written(pixel)} asks with its ${patch}×${patch} pixels and s = ${scale}. ${rounded(one.share)} of the weight lies ` +
    `within two pixels of ${written(one.mode)}${other.share >= 0.01 ? `, and ${within(other)}` : ""}. The mean is at ${place(mean)}, ` +
    `the true partner at ${place(end)}: off by ${rounded(off, 1)} pixels. The whole image is off by ${rounded(error)}, on average.`
  );
}

export default {
  render({ model, el }) {
    const { pairs, patches, scales } = model.get("data");
    const images = Object.fromEntries(
      Object.entries(pairs).map(([name, { first, second, flow }]) => {
        const bytes = { first: unpack(first, Uint8Array, 1), second: unpack(second, Uint8Array, 1) };
        return [name, { ...bytes, pale: pale(bytes.second), flow: unpack(flow, Float32Array, 1) }];
      }),
    );
    const side = Math.sqrt(Object.values(images)[0].first.length / 3);
    const state = () => model.get("state");
    const change = changer(model);

    const panel = (title) => {
      const canvas = make("canvas", { width: side, height: side });
      const marks = svg("svg", { viewBox: `0 0 ${side} ${side}`, "aria-hidden": "true", class: "match" });
      const view = make("div", { class: "view" }, canvas, marks);
      return { canvas, marks, view, element: make("div", {}, view, make("b", {}, title)) };
    };
    const [asks, answers] = [panel("the first image"), panel("whom it finds in the second")];
    const errors = chart(["other", "bound", "current", "chosen"], scales, { low: 0.08, decades: 2.3, powers: { 0.1: 0.1, 1: 1, 10: 10 } });
    const title = make("b");
    const broad = make("div", { class: "broad-panel" }, errors.element, title);
    const map = make("div", { class: "panels three", role: "application", tabindex: 0 }, asks.element, answers.element, broad);
    map.setAttribute("aria-label", "Two images, how well one pixel of the first fits each of the second, and the mean error");
    const hand = { side: () => side, at: () => state().pixel, move: (pixel) => change({ pixel }) };
    point(asks.view, hand);
    steer(map, hand);

    const size = slider("Patch", patches, (patch) => `${patch}×${patch}`, (patch) => change({ patch }));
    const sharpness = slider("Sharpness s", scales, String, (scale) => change({ scale }));
    const choice = choices("Images", Object.fromEntries(Object.keys(pairs).map((name) => [name, name])), (pair) => change({ pair }));
    const colours = key({ receiver: "who asks, and its true partner", relay: "the mean", current: "error with this patch", other: "with others", bound: "without any flow" });
    const sliders = make("div", { class: "sliders" }, size.element, sharpness.element);
    const told = frame(el, TEXTS, [map, colours], sliders, choice.element);
    told.closest(".play").classList.add("wide");

    const places = pixelsOf(side);
    const keys = {}; // of each pair and patch, once it is looked at
    function weigh({ pair, pixel, patch, scale }) {
      const { first, second } = images[pair];
      keys[`${pair} ${patch}`] ??= places.map((place) => patchToken(second, side, patch, place));
      const query = patchToken(first, side, patch, pixel);
      const logit = (token) => scale * token.reduce((product, value, part) => product + value * query[part], 0);
      return softmax(keys[`${pair} ${patch}`].map(logit));
    }

    const square = ([row, column], width) => // twice, for it must be seen on every colour
      ["halo", "edge"].map((name) =>
        svg("rect", { class: name, x: column + (1 - width) / 2, y: row + (1 - width) / 2, width, height: width }));
    function mark({ pixel, patch }, mean, end) {
      asks.marks.replaceChildren(...square(pixel, patch));
      const [from, to] = [mean, end].map(([row, column]) => `${column + 0.5} ${row + 0.5}`);
      const dot = svg("circle", { class: "mean", cx: mean[1] + 0.5, cy: mean[0] + 0.5, r: 0.7 });
      answers.marks.replaceChildren(svg("path", { class: "miss", d: `M${from}L${to}` }), ...square(end, patch), dot);
    }

    function drawErrors({ pair, patch, scale }) {
      const place = scales.indexOf(scale);
      const { [patch]: current, ...others } = pairs[pair].errors;
      const other = Object.values(others).map(errors.line).join("");
      const chosen = errors.dot(current[place], place);
      errors.draw({ other, bound: errors.level(pairs[pair].still), current: errors.line(current), chosen }, "sharpness s");
      title.textContent = `mean error (pixels), ${patch}×${patch}`;
    }

    redraw(model, () => {
      const now = state();
      const { first, pale: greys, flow } = images[now.pair];
      const weights = weigh(now);
      const number = now.pixel[0] * side + now.pixel[1];
      const found = read(weights, places);
      const end = now.pixel.map((place, axis) => place + flow[2 * number + axis]);
      const most = Math.max(...weights);
      paint(asks.canvas, first.map((value) => value / 255));
      paint(answers.canvas, greys.flatMap((grey, index) => BLUE.map((blue) => grey + (weights[index] / most) * (blue - grey))));
      mark(now, found.mean, end);
      drawErrors(now);
      size.show(now.patch);
      sharpness.show(now.scale);
      choice.check(now.pair);
      told.textContent = say(now, found, end, pairs[now.pair].errors[now.patch][scales.indexOf(now.scale)]);
    });
  },
};
