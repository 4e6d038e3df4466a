// Reading a map between its pixels: four weights, what they add up to, and how that changes when the place moves.
import { changer, frame, make, point, redraw, rounded, steer, sum, svg } from "./shared.js";

const TEXTS = {
  wish: "drag the dot slowly across a line of pixel centres, and then out of the map.",
  find: "the arrow, which is the slope, turns smoothly between the centres, jumps on their lines, and is gone more than one step outside.",
  keys: "With keys: arrows move the dot by a quarter of a pixel. With a finger: tap or draw. Places are (row, column) of pixel centres, counted from (0, 0) at the top left.",
};
const STEP = 1 / 256;

const tent = (pixel, place) => Math.max(0, 1 - Math.abs(pixel - place));

function weigh(values, [row, column]) {
  return values.map((line, y) => line.map((_, x) => tent(y, row) * tent(x, column)));
}

function read(values, place) {
  return sum(weigh(values, place).flatMap((line, y) => line.map((weight, x) => weight * values[y][x])));
}

// The change by a pixel, when the place moves a little to one side: right, left, down, up.
function slopes(values, [row, column]) {
  const here = read(values, [row, column]);
  const sides = [[0, 1], [0, -1], [1, 0], [-1, 0]];
  return sides.map(([down, right]) => (read(values, [row + down * STEP, column + right * STEP]) - here) / STEP / (down + right));
}

function say(values, place) {
  const here = `At (${place.map((x) => rounded(x)).join(", ")})`;
  const weights = weigh(values, place).flat();
  if (!weights.some(Boolean)) {
    return `${here} no pixel is within one step. It reads 0, its slope is 0: there is nothing to learn from.`;
  }
  const terms = weights.flatMap((weight, index) => (weight ? [`${rounded(weight, 3)} · ${values.flat()[index]}`] : []));
  const [right, left, down, up] = slopes(values, place).map((slope) => rounded(slope));
  const moves =
    right === left && down === up
      ? `The slope is ${right} to the right and ${down} downwards.`
      : `The slope jumps here: to the right from ${left} to ${right}, downwards from ${up} to ${down}.`;
  return `${here} it reads ${terms.join(" + ")} = ${rounded(read(values, place))}. ${moves}`;
}

export default {
  render({ model, el }) {
    const { values } = model.get("data");
    const side = values.length;
    const [start, span, low, high] = [-3.4, side + 4, -1.5, side + 0.5]; // the picture, and where the dot may be
    const change = (place) => {
      const near = place.map((x) => Math.round(100 * Math.min(high, Math.max(low, x))) / 100);
      changer(model)({ place: near });
    };

    const drawing = svg("g");
    const picture = svg("svg", { viewBox: `${start} ${start} ${span} ${span}`, "aria-hidden": "true" }, drawing);
    const map = make("div", { class: "map reading", role: "application", tabindex: 0 }, picture);
    map.setAttribute("aria-label", `A map of ${side} by ${side} pixels with a number in each, and a dot that reads it`);
    point(map, {
      side: () => 100 * span,
      at: () => model.get("state").place.map((x) => Math.round(100 * (x - start))),
      move: (steps) => change(steps.map((step) => start + step / 100)),
    });
    steer(map, {
      side: () => 4 * (high - low) + 1,
      at: () => model.get("state").place.map((x) => Math.round(4 * (x - low))),
      move: (steps) => change(steps.map((step) => low + step / 4)),
    });
    const told = frame(el, TEXTS, [map]);
    told.closest(".play").classList.add("narrow");

    function draw([row, column]) {
      const parts = [svg("rect", { class: "within", x: -1, y: -1, width: side + 1, height: side + 1 })];
      for (const [y, line] of weigh(values, [row, column]).entries()) {
        for (const [x, weight] of line.entries()) {
          const cell = { x: x - 0.5, y: y - 0.5, width: 1, height: 1 };
          parts.push(svg("rect", { class: "cell", ...cell }), svg("rect", { class: "share", ...cell, opacity: 0.65 * weight }));
          parts.push(svg("text", { x, y: y - 0.08, "font-size": 0.32 }, values[y][x]));
          if (weight) parts.push(svg("text", { class: "times", x, y: y + 0.26, "font-size": 0.2 }, `× ${rounded(weight, 3)}`));
        }
      }
      for (let pixel = 0; pixel < side; pixel++) {
        const [across, down] = [tent(pixel, column), tent(pixel, row)];
        parts.push(svg("path", { class: across ? "tent on" : "tent", d: `M${pixel - 1} -2L${pixel} -3L${pixel + 1} -2` }));
        parts.push(svg("path", { class: down ? "tent on" : "tent", d: `M-2 ${pixel - 1}L-3 ${pixel}L-2 ${pixel + 1}` }));
        if (across) parts.push(svg("circle", { class: "weight", cx: column, cy: -2 - across, r: 0.09 }));
        if (down) parts.push(svg("circle", { class: "weight", cx: -2 - down, cy: row, r: 0.09 }));
      }
      parts.push(svg("path", { class: "sight", d: `M${column} -3V${row}M-3 ${row}H${column}` }));
      const [right, , down] = slopes(values, [row, column]).map((slope) => slope / 40);
      const turn = `translate(${column + right} ${row + down}) rotate(${(Math.atan2(down, right) * 180) / Math.PI}) scale(0.16)`;
      if (Math.hypot(right, down) > 0.01) {
        parts.push(svg("path", { class: "slope", d: `M${column} ${row}l${right} ${down}` }));
        parts.push(svg("path", { class: "point", d: "M0.9 0L-0.5 0.6V-0.6z", transform: turn }));
      }
      parts.push(svg("circle", { class: "dot", cx: column, cy: row, r: 0.14 }));
      drawing.replaceChildren(...parts);
    }

    redraw(model, () => {
      const { place } = model.get("state");
      draw(place);
      told.textContent = say(values, place);
    });
  },
};
