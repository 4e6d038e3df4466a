// The hop map: the one path from a sender to a receiver, and what each patch costs.
import { changer, choices, count, drawnHops, frame, groups, key, make, point, redraw, slider, steer, sum, unique, written } from "./shared.js";

const TEXTS = {
  wish: "move the receiver over the map, click to make its pixel the sender, and move on. Then change the order of the hops, the patch (click a bar) and the map.",
  find: "one path for every pair, which turns where the two colours meet; the least cost at k² ≈ √N; and no gain at all on 8 × 8.",
  keys: "With keys: arrows move the receiver, Enter picks the sender. With a finger: tap to move the receiver, tap it again to pick the sender. Pixels are (row, column), counted from (0, 0) at the top left.",
};

function say(state, share) {
  const { one, two, relay } = groups(state);
  const pixels = ({ length }) => `${count(length)} pixel${length > 1 ? "s" : ""}`;
  const across = (group) => `${pixels(group)}, one of every patch`;
  const within = (group) => `the ${pixels(group)} of one patch`;
  const [hop1, hop2] = state.first === "across" ? [across, within] : [within, across];
  return (
    `${written(state.receiver)} hears ${written(state.sender)} by one path, through ${written(relay)}. ` +
    `Hop 1 sums over ${hop1(one)}; hop 2 over ${hop2(two)}. ` +
    `So each pixel computes ${count(one.length + two.length)} weights and hears all ${count(state.side ** 2)} pixels, ` +
    `for ${share.toFixed(2)} of the cost of full attention.`
  );
}

// Bars, each of them also the button that chooses its patch.
function costChart(costs, choose) {
  const bars = make("div", { class: "bars" });
  const element = make("fieldset", {}, make("legend", {}, "Cost, by the side k of a patch"), bars);
  const group = unique("patch");
  const bar = (name, parts, ...radio) => {
    const stack = make("span", { class: "stack" }, ...parts.map((part) => make("i", { class: part })));
    return make(radio.length ? "label" : "div", { class: "bar" }, ...radio, stack, make("b", {}, name));
  };
  let side;
  element.addEventListener("change", ({ target }) => choose(Number(target.value)));

  // Returns the share of full attention's cost that the chosen patch takes.
  function draw(state) {
    const { full, gsa } = costs[state.side];
    if (state.side !== side) {
      side = state.side;
      const radio = (value) => make("input", { type: "radio", name: group, value });
      const ofPatch = (patch) => bar(patch, ["hop2", "hop1", "projections"], radio(patch));
      bars.replaceChildren(bar("full", ["whole", "projections"]), ...Object.keys(gsa).map(ofPatch));
    }
    const all = [full, ...Object.values(gsa)];
    const top = Math.max(...all.map(sum));
    bars.style.setProperty("--full", sum(full) / top);
    for (const [index, [projections, ...hops]] of all.entries()) {
      const parts = [...(state.first === "across" ? hops.reverse() : hops), projections];
      const stack = bars.children[index].querySelector(".stack");
      stack.dataset.share = (sum(parts) / sum(full)).toFixed(2);
      for (const [place, part] of parts.entries()) stack.children[place].style.height = `${(100 * part) / top}%`;
    }
    for (const radio of bars.querySelectorAll("input")) radio.checked = Number(radio.value) === state.patch;
    return sum(gsa[state.patch]) / sum(full);
  }
  return { element, draw };
}

export default {
  render({ model, el }) {
    const { costs } = model.get("data");
    const sides = Object.keys(costs).map(Number);
    const change = changer(model);

    const hops = drawnHops();
    const map = make("div", { class: "map", role: "application", tabindex: 0 }, hops.picture);
    const chart = costChart(costs, (patch) => change({ patch }));
    const orders = { across: "across patches (GSA)", within: "within a patch (MaxViT)" };
    const order = choices("First hop", orders, (first) => change({ first }));
    const pixels = (side) => `${side} × ${side} = ${count(side ** 2)} pixels`;
    const size = slider("Map", sides, pixels, (side) => {
      const state = model.get("state");
      const moved = (pixel) => pixel.map((x) => Math.floor(((x + 0.5) * side) / state.side));
      const patch = Object.keys(costs[side].gsa).map(Number).filter((k) => k <= state.patch).at(-1);
      change({ side, patch, receiver: moved(state.receiver), sender: moved(state.sender) });
    });
    const hand = {
      side: () => model.get("state").side,
      at: () => model.get("state").receiver,
      move: (receiver) => change({ receiver }),
      pick: () => change({ sender: model.get("state").receiver }),
    };
    point(map, hand);
    steer(map, hand);
    const told = frame(
      el,
      TEXTS,
      [map, key({ sender: "sender", relay: "relay", receiver: "receiver" })],
      size.element,
      order.element,
      chart.element,
      key({ projections: "projections", hop1: "hop 1", hop2: "hop 2", whole: "full attention" }),
    );

    redraw(model, () => {
      const state = model.get("state");
      hops.draw(state);
      map.setAttribute("aria-label", `Map of ${state.side} by ${state.side} pixels in patches of ${state.patch} by ${state.patch}`);
      told.textContent = say(state, chart.draw(state));
      order.check(state.first);
      size.show(state.side);
    });
  },
};
