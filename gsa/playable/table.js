// The table of self-attention: every weight between the pixels of a photograph, read by rows or by columns.
import { changer, choices, frame, make, paint, point, redraw, softmax, steer, sum, switches, unpack, written } from "./shared.js";

const TEXTS = {
  wish: "move over the photograph, or over the table, and see whom the pixel hears. Read columns, shuffle the pixels, let the near ones count more.",
  find: "each row sums to one, the columns do not; a shuffled pixel hears the same colours as before, unless it is told where it is. The bias takes an eighth of the squared distance from each logit, the exponent of a weight.",
  keys: "With keys: arrows move the pixel, Enter changes between row and column. With a finger: tap or draw. Pixels are (row, column), counted from (0, 0) at the top left.",
};

// Every row of the table, for pixels that lie in this order.
function attend({ side, queries, keys }, order, near) {
  const width = queries.length / order.length;
  const place = (number) => [Math.floor(number / side), number % side];
  const logit = (i, j) => {
    let product = 0;
    for (let part = 0; part < width; part++) product += queries[order[i] * width + part] * keys[order[j] * width + part];
    const [[row, column], [otherRow, otherColumn]] = [place(i), place(j)];
    return near ? product - ((row - otherRow) ** 2 + (column - otherColumn) ** 2) / 8 : product;
  };
  return order.map((_, i) => softmax(order.map((_, j) => logit(i, j))));
}

export default {
  render({ model, el }) {
    const data = model.get("data");
    const { side } = data;
    const [queries, keys] = [data.queries, data.keys].map((packed) => unpack(packed, Float32Array, 1));
    const pixels = unpack(data.pixels, Uint8Array, 255);
    const inOrder = data.order.map((_, number) => number);
    const change = changer(model);
    const numberOf = ([row, column]) => row * side + column;
    const pixelOf = (number) => [Math.floor(number / side), number % side];

    const panel = (size, name) => {
      const canvas = make("canvas", { width: size, height: size });
      const marker = make("span", { class: "pixel" });
      const view = make("div", { class: "view" }, canvas, marker);
      return { canvas, marker, view, element: make("div", { class: name }, view, make("b", {}, "")) };
    };
    const [photo, table, heard] = [panel(side, "photo-panel"), panel(side ** 2, "table-panel"), panel(side, "heard-panel")];
    const map = make("div", { class: "panels three", role: "application", tabindex: 0 });
    map.append(...[photo, table, heard].map(({ element }) => element));
    map.setAttribute("aria-label", "A photograph, the table of all weights between its pixels, and what one pixel hears");
    const state = () => model.get("state");
    const turn = () => change({ reads: state().reads === "row" ? "column" : "row" });
    const hand = { side: () => side, at: () => state().pixel, move: (pixel) => change({ pixel }), pick: turn };
    for (const { view } of [photo, heard]) point(view, { ...hand, pick: () => {} });
    steer(map, hand);
    point(table.view, {
      side: () => side ** 2,
      at: () => [numberOf(state().pixel), numberOf(state().pixel)],
      move: ([i, j]) => change({ pixel: pixelOf(state().reads === "row" ? i : j) }),
    });
    const reads = { row: "its row: whom it hears", column: "its column: by whom it is heard" };
    const choice = choices("Read", reads, (value) => change({ reads: value }));
    const labels = { shuffled: "shuffle the pixels", near: "add a bias: near pixels count more" };
    const more = switches("Change", labels, (name, on) => {
      if (name === "near") return change({ near: on });
      const number = numberOf(state().pixel);
      change({ shuffled: on, pixel: pixelOf(on ? data.order.indexOf(number) : data.order[number]) });
    });
    const told = frame(el, TEXTS, [map], choice.element, more.element);
    told.closest(".play").classList.add("wide");

    let [weights, columns, drawn] = [[], [], ""];
    function compute({ shuffled, near }) {
      if (drawn === `${shuffled} ${near}`) return;
      drawn = `${shuffled} ${near}`;
      weights = attend({ side, queries, keys }, shuffled ? data.order : inOrder, near);
      columns = inOrder.map((j) => sum(weights.map((row) => row[j])));
      const all = Float64Array.from(weights.flat());
      const most = all.toSorted()[Math.floor(0.99 * (all.length - 1))];
      const context = table.canvas.getContext("2d");
      const image = context.createImageData(side ** 2, side ** 2);
      for (const [index, weight] of all.entries()) image.data.set([0, 114, 178, 255 * Math.min(1, weight / most)], 4 * index);
      context.putImageData(image, 0, 0);
    }

    redraw(model, () => {
      const { pixel, reads: by, shuffled, near } = state();
      compute(state());
      const number = numberOf(pixel);
      const values = by === "row" ? weights[number] : weights.map((row) => row[number]);
      const most = Math.max(...values);
      const colours = (shuffled ? data.order : inOrder).flatMap((from) => [...pixels.slice(3 * from, 3 * from + 3)]);
      paint(photo.canvas, colours);
      paint(heard.canvas, colours, values.map((value) => value / most));
      const share = (length, all) => `${(100 * length) / all}%`;
      const [row, column] = pixel;
      for (const { marker } of [photo, heard]) {
        const place = { width: share(1, side), height: share(1, side), top: share(row, side), left: share(column, side) };
        Object.assign(marker.style, place);
      }
      const along = by === "row" ? { top: share(number, side ** 2), left: 0 } : { top: 0, left: share(number, side ** 2) };
      const thin = share(1, side ** 2);
      const [width, height] = by === "row" ? ["100%", thin] : [thin, "100%"];
      Object.assign(table.marker.style, { ...along, width, height });
      const titles = ["the photograph", "the table", by === "row" ? "whom it hears" : "by whom it is heard"];
      for (const [index, { element }] of [photo, table, heard].entries()) element.querySelector("b").textContent = titles[index];
      choice.check(by);
      more.check({ shuffled, near });
      const best = written(pixelOf(values.indexOf(most)));
      told.textContent =
        by === "row"
          ? `Row: ${written(pixel)} has ${sum(values).toFixed(2)} to give away, as everybody has. The most, ${most.toFixed(3)}, goes ` +
            `to ${best}. What it gets from all is another matter: ${columns[number].toFixed(2)}.`
          : `Column: all together give ${written(pixel)} ${sum(values).toFixed(2)}; the most, ${most.toFixed(3)}, comes from ${best}. ` +
            `The columns sum to ${Math.min(...columns).toFixed(2)} at the least and ${Math.max(...columns).toFixed(2)} at the most, and to 1 on average.`;
    });
  },
};
