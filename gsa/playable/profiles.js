// Two profiles: drag seven logits of rows and seven of columns, and the weights of a head follow.
import { changer, choices, frame, key, make, redraw, slider, softmax, sum, svg } from "./shared.js";

const TEXTS = {
  wish: "drag the bars until the weights fill the framed diagonal; then wish for a stripe, for a spot, and sharpen with α.",
  find: "a stripe and a spot can be had, a diagonal cannot, for every row of the weights is the same profile, more or less strong; a sharp spot is one pixel, as one place of a convolution's kernel hears it.",
  keys: "With keys: left and right choose one of the fourteen bars, up and down change it. With a finger: draw over the bars.",
};
const [K, HIGHEST, CELL, EDGE] = [7, 6, 10, 30]; // the map of weights begins at the edge, the bars end before it
const LONGEST = EDGE - 4;

const offset = (index) => String(index - (K - 1) / 2).replace(/^(?=[1-9])/, "+").replace("-", "−");

function say(weights, common, wish, best) {
  const values = weights.flat();
  const largest = Math.max(...values);
  const place = values.indexOf(largest);
  return (
    `The largest of the 49 weights, ${largest.toFixed(2)}, is at offset (${offset(Math.floor(place / K))}, ${offset(place % K)}). ` +
    `The weights have ${common.toFixed(2)} in common with the wished ${wish}; no two profiles have more than ${best.toFixed(2)}.`
  );
}

// The bars of the columns above the weights, those of the rows at their left; the first seven of all are the columns'.
function drawnProfiles(choose, set) {
  const cells = Array.from({ length: K * K }, (_, index) =>
    svg("rect", { class: "cell", x: EDGE + CELL * (index % K), y: EDGE + CELL * Math.floor(index / K), width: CELL, height: CELL }));
  const bars = Array.from({ length: 2 * K }, (_, index) => svg("rect", { class: index < K ? "kappa" : "rho" }));
  const strips = [
    svg("rect", { class: "strip kappa", x: EDGE, width: K * CELL, height: EDGE }),
    svg("rect", { class: "strip rho", y: EDGE, width: EDGE, height: K * CELL }),
  ];
  const text = (words, x, y) => svg("text", { x, y, "font-size": 4 }, words);
  const ticks = Array.from({ length: K }, (_, index) => {
    const middle = EDGE + CELL * (index + 0.5);
    return [text(offset(index), middle, 104), text(offset(index), 104, middle)];
  });
  const frames = svg("path", { class: "wished" });
  const picture = svg("svg", { viewBox: "0 0 107 107", "aria-hidden": "true" }, ...strips, ...bars, ...cells, ...ticks.flat(), frames);
  const element = make("div", { class: "map profiles", role: "application", tabindex: 0 }, picture);
  element.setAttribute("aria-label", "Seven bars for columns, seven for rows, and the 7 by 7 weights that they make");
  let shown;

  const limit = (value) => Math.min(HIGHEST, Math.max(0, value));
  let held; // the kind of bars that a pointer has taken hold of
  const drag = ({ clientX, clientY }) => {
    const { left, top, width } = picture.getBoundingClientRect();
    const [x, y] = [clientX - left, clientY - top].map((place) => (107 * place) / width);
    const [along, height] = held === "kappa" ? [x, y] : [y, x];
    const bar = Math.min(K - 1, Math.max(0, Math.floor((along - EDGE) / CELL)));
    set(held === "kappa" ? bar : K + bar, limit(Math.round((2 * HIGHEST * (EDGE - 2 - height)) / LONGEST) / 2));
  };
  picture.addEventListener("pointerdown", (event) => {
    held = ["kappa", "rho"].find((kind) => event.target.classList.contains(kind));
    if (!held) return;
    picture.setPointerCapture(event.pointerId);
    drag(event);
  });
  picture.addEventListener("pointermove", (event) => held && event.buttons && drag(event));
  element.addEventListener("keydown", (event) => {
    const { bar, logits } = shown;
    const change = { ArrowUp: 0.5, ArrowDown: -0.5 }[event.key];
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (change) set(bar, limit(logits[bar] + change));
    else if (step) choose((bar + step + 2 * K) % (2 * K));
    else return;
    event.preventDefault();
  });

  function draw({ rows, columns, bar }, weights, wished) {
    shown = { bar, logits: [...columns, ...rows] };
    for (const [index, logit] of shown.logits.entries()) {
      const long = (LONGEST * logit) / HIGHEST + 0.5;
      const [along, from] = [EDGE + CELL * (index % K) + 1, EDGE - 1.5 - long];
      const [x, y, width, height] = index < K ? [along, from, CELL - 2, long] : [from, along, long, CELL - 2];
      for (const [name, value] of Object.entries({ x, y, width, height })) bars[index].setAttribute(name, value);
      bars[index].classList.toggle("chosen", index === bar);
    }
    const most = Math.max(...weights.flat());
    for (const [index, weight] of weights.flat().entries()) cells[index].style.fillOpacity = weight / most;
    const places = wished.flatMap((row, i) => row.map((weight, j) => (weight ? [i, j] : [])).filter((place) => place.length));
    frames.setAttribute("d", places.map(([i, j]) => `M${EDGE + CELL * j} ${EDGE + CELL * i}h${CELL}v${CELL}h-${CELL}z`).join(""));
  }
  return { element, draw };
}

export default {
  render({ model, el }) {
    const { wishes, best, alphas } = model.get("data");
    const change = changer(model);
    const set = (bar, value) => {
      const kind = bar < K ? "columns" : "rows";
      change({ bar, [kind]: model.get("state")[kind].with(bar % K, value) });
    };
    const picture = drawnProfiles((bar) => change({ bar }), set);
    const sharpness = slider("Sharpness α", alphas, String, (alpha) => change({ alpha }));
    const wish = choices("Wish", { spot: "a spot", stripe: "a stripe", diagonal: "a diagonal" }, (value) => change({ wish: value }));
    const colours = key({ kappa: "column logits κ", rho: "row logits ρ", weight: "weights", wished: "wish" });
    const told = frame(el, TEXTS, [picture.element, colours], wish.element, sharpness.element);

    redraw(model, () => {
      const state = model.get("state");
      const [rows, columns] = [state.rows, state.columns].map((logits) => softmax(logits.map((logit) => state.alpha * logit)));
      const weights = rows.map((row) => columns.map((column) => row * column));
      const wished = wishes[state.wish];
      const common = sum(weights.flatMap((row, i) => row.map((weight, j) => Math.min(weight, wished[i][j]))));
      picture.draw(state, weights, wished);
      wish.check(state.wish);
      sharpness.show(state.alpha);
      told.textContent = say(weights, common, state.wish, best[state.wish]);
    });
  },
};
