// Two sliders: what window and reduction of Twins let a pixel see, what they cost, and what the summaries tell.
import { changer, chart, count, frame, key, make, paint, point, redraw, slider, steer, switches, unpack, written } from "./shared.js";

const TEXTS = {
  wish: "move the sliders through the valley, then open the lock, and take the reduction to 56. Move over the first picture to see with another pixel.",
  find: "with the lock a valley, at 7 and 8, close to its bound; without it no valley, for the fewer the summaries, the less they cost; and from the last one every pixel reads the same: a flat picture.",
  keys: "With keys: arrows move the pixel, or a slider. With a finger: tap or draw. Pixels are (row, column), counted from (0, 0) at the top left. Queries, keys and values of the second picture are colours; costs are those of a map with 64 channels.",
};
const SIDE = 56;
const KS = [1, 2, 4, 7, 8, 14, 28, 56];

// Multiply-accumulates for every reduction: attention to the window and to the summaries, and projections.
function costsOf({ window, locked }, costs) {
  const near = KS.map((k) => costs.window[locked ? k : window]);
  const far = KS.map((k) => costs.reduction[k]);
  const both = near.map(([, macs], place) => macs + far[place][1]);
  const projections = near.map(([macs], place) => macs + far[place][0]);
  return { window: near.map(([, macs]) => macs), summaries: far.map(([, macs]) => macs), projections, both };
}

function say({ window, reduction, locked, pixel }, { both, projections }, { spreads, bound }) {
  const [pixels, summaries, place] = [window ** 2, (SIDE / reduction) ** 2, KS.indexOf(reduction)];
  const mmac = (macs) => (macs / 1e6).toFixed(1);
  const told =
    summaries > 1
      ? `What pixels read from the summaries varies ${spreads[reduction].toFixed(2)} times as much as what they would read from all.`
      : "One summary tells all pixels the same: the second picture is flat.";
  return (
    `${written(pixel)} attends to ${count(pixels)} pixel${pixels > 1 ? "s" : ""} of its window and ${count(summaries)} ` +
    `summar${summaries > 1 ? "ies" : "y"}: ${count(pixels + summaries)} keys` +
    `${locked ? `, where the lock allows no fewer than ${bound}` : ""}. ` +
    `Attention costs ${mmac(both[place])} MMAC, projections ${mmac(projections[place])}. ${told}`
  );
}

// The colours of the pixel's window, and around it the summaries.
function look(summaries, { window, reduction, pixel }) {
  const [top, left] = pixel.map((place) => place - (place % window));
  const inside = (place, start) => place >= start && place < start + window;
  const colours = new Float64Array(3 * SIDE ** 2);
  for (let row = 0; row < SIDE; row++) {
    for (let column = 0; column < SIDE; column++) {
      const step = inside(row, top) && inside(column, left) ? 1 : reduction;
      const from = Math.floor(row / step) * (SIDE / step) + Math.floor(column / step);
      colours.set(summaries[step].subarray(3 * from, 3 * from + 3), 3 * (row * SIDE + column));
    }
  }
  return colours;
}

// Costs over the reduction, on a logarithmic axis.
function drawnCosts(bound) {
  const names = ["bound", "projections", "summaries", "window", "both", "dots", "chosen"];
  const powers = Object.fromEntries([1, 10, 100, 1000].map((mmac) => [count(mmac), 1e6 * mmac]));
  const { element, line, dot, level, draw } = chart(names, KS, { low: 3e5, decades: 4, powers });

  function show({ reduction, locked }, costs) {
    const lines = Object.fromEntries(Object.entries(costs).map(([name, values]) => [name, line(values)]));
    const place = KS.indexOf(reduction);
    const dots = { dots: costs.both.map(dot).join(""), chosen: dot(costs.both[place], place) };
    draw({ ...lines, ...dots, bound: locked ? level(bound) : "" }, locked ? "window = reduction" : "reduction");
  }
  return { element, show };
}

export default {
  render({ model, el }) {
    const data = model.get("data");
    const unpacked = (packed) => KS.map((k) => [k, unpack(packed[k], Uint8Array, 255)]);
    const [summaries, told] = [data.summaries, data.told].map((packed) => Object.fromEntries(unpacked(packed)));
    const state = () => model.get("state");
    const change = changer(model);

    const panel = () => {
      const canvas = make("canvas", { width: SIDE, height: SIDE });
      const [near, pixel] = ["near", ""].map((name) => make("span", { class: `pixel ${name}` }));
      const title = make("b");
      const view = make("div", { class: "view" }, canvas, near, pixel);
      return { canvas, near, pixel, title, view, element: make("div", {}, view, title) };
    };
    const [sight, news] = [panel(), panel()];
    news.near.remove();
    sight.title.textContent = "what the framed pixel attends to";
    news.title.textContent = "what every pixel reads from the summaries";
    const costChart = drawnCosts(2 * SIDE ** 2 * 64 * data.bound);
    const cost = make("div", { class: "cost-panel" }, costChart.element, make("b", {}, "cost (MMAC)"));
    const map = make("div", { class: "panels three", role: "application", tabindex: 0 }, sight.element, news.element, cost);
    map.setAttribute("aria-label", "A photograph as one pixel attends to it, what pixels read from summaries, and the cost");
    const hand = { side: () => SIDE, at: () => state().pixel, move: (pixel) => change({ pixel }) };
    for (const { view } of [sight, news]) point(view, hand);
    steer(map, hand);

    const sides = (k) => `${k} × ${k}`;
    const either = (name) => (k) => change(state().locked ? { window: k, reduction: k } : { [name]: k });
    const sliders = { window: "Window", reduction: "Reduction" };
    for (const [part, name] of Object.entries(sliders)) sliders[part] = slider(name, KS, sides, either(part));
    const lock = switches("Lock", { locked: "one side for both" }, (_, locked) =>
      change(locked ? { locked, reduction: state().window } : { locked }));
    const colours = key({ window: "window", summaries: "summaries", both: "attention: both", projections: "projections", bound: "bound" });
    const both = make("div", { class: "sliders" }, ...Object.values(sliders).map(({ element }) => element));
    const words = frame(el, TEXTS, [map, colours], both, lock.element);
    words.closest(".play").classList.add("wide");

    redraw(model, () => {
      const now = state();
      const costs = costsOf(now, data.costs);
      paint(sight.canvas, look(summaries, now));
      paint(news.canvas, told[now.reduction]);
      costChart.show(now, costs);
      const share = (pixels) => `${(100 * pixels) / SIDE}%`;
      const place = (mark, [row, column], side) =>
        Object.assign(mark.style, { top: share(row), left: share(column), width: share(side), height: share(side) });
      place(sight.near, now.pixel.map((each) => each - (each % now.window)), now.window);
      for (const { pixel } of [sight, news]) place(pixel, now.pixel, 1);
      for (const [part, { show }] of Object.entries(sliders)) show(now[part]);
      lock.check(now);
      words.textContent = say(now, costs, data);
    });
  },
};
