// The matrix behind a layer: what a pixel of its result sums, and which row of all weights that is.
import { changer, choices, count, frame, key, make, pixelsOf, point, redraw, slider, steer, sum, svg, unpack, written } from "./shared.js";

const TEXTS = {
  wish: "move over the result, from its middle to an edge and into a corner. Move the image, choose the other side beyond the border, and move it again. Then give up sharing, and at last nearness.",
  find: "a weight from each of 64 pixels to each makes 4,096 numbers; nearness leaves 22² = 484 (in a circle 24² = 576), and sharing 9. With zeros beyond the border, rows lose three weights at an edge and five in a corner, and sum to less: the rim is darker than in a circle, and does not move with the image. In a circle no row loses any. Where weights are shared too, each row of blocks is the one above, moved on by a block, and each row in a block the one above, moved on by a pixel: the matrix is block-circulant, and whatever moves the image moves the result.",
  keys: "With keys: arrows move the pixel. With a finger: tap or draw. Pixels are (row, column), counted from (0, 0) at the top left.",
};
const NUMERALS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
const [MORE, LESS] = ["84, 39, 136", "179, 88, 6"];

const signed = (value) => String(value).replace("-", "−");
const some = (values) => values.filter(Boolean).length;
const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
const set = (node, name, value) => node.getAttribute(name) === String(value) || node.setAttribute(name, value);
const columns = (number) => `${number} column${number === 1 ? "" : "s"}`;

// The pixels (number) that a window around a pixel covers, row by row; undefined where there is none.
function cover({ side, border }, [row, column]) {
  return pixelsOf(3).map(([a, b]) => {
    const pixel = [row + a - 1, column + b - 1];
    const [y, x] = border === "circular" ? pixel.map((place) => (place + side) % side) : pixel;
    return [y, x].every((place) => place >= 0 && place < side) ? y * side + x : undefined;
  });
}

// The weight for every pixel of the result of every pixel of the image, row by row.
function build({ side, kernel, free }, { weights, border }) {
  return pixelsOf(side).map((pixel, i) => {
    const own = free.slice(i * side ** 2, (i + 1) * side ** 2);
    if (weights === "free") return own;
    const row = own.map(() => 0);
    for (const [offset, j] of cover({ side, border }, pixel).entries()) {
      if (j !== undefined && kernel[offset]) row[j] = weights === "near" ? own[j] : kernel[offset];
    }
    return row;
  });
}

// What there is to be seen: the image as it lies, what it becomes, which results moved with it, and one pixel's part.
function compute({ side, still }, matrix, { pixel, border, moved }) {
  const move = (values) => pixelsOf(side).map(([row, column]) => values[row * side + ((column - moved + side) % side)]);
  const times = (values) => matrix.map((row) => row.reduce((total, weight, j) => total + weight * values[j], 0));
  const seen = move(still);
  const result = times(seen);
  const expected = move(times(still));
  const number = pixel[0] * side + pixel[1];
  const along = result.map((value, i) => value === expected[i]);
  return { seen, result, along, number, row: matrix[number], window: cover({ side, border }, pixel) };
}

function say({ weights, moved, pixel }, { seen, result, along, number, row, window }, { kernel }, matrix) {
  const entries = some(row);
  const value = signed(result[number]);
  const products = window.filter((j) => row[j]).map((j) => `${signed(row[j])}·${seen[j]}`);
  const sums =
    weights === "free"
      ? `${entries} products, one for each pixel, to ${value}`
      : `${NUMERALS[entries]} products: ${products.join(" + ").replaceAll("+ −", "− ")} = ${value}`;
  const own = weights === "shared" ? `made of ${some(kernel)} numbers` : "each a number of its own";
  const still = moved ? ` The image has moved by ${columns(moved)}, and ${some(along)} of ${along.length} results with it.` : "";
  return (
    `${written(pixel)} sums ${sums}. Its row of the matrix has ${entries} weights, which sum to ${signed(sum(row))}. ` +
    `The matrix has ${count(some(matrix.flat()))} weights, ${own}.${still}`
  );
}

// A line around the pixels of a map that are inside.
function outline(inside, side) {
  const at = (row, column) => row >= 0 && column >= 0 && row < side && column < side && inside[row * side + column];
  const edges = ([row, column]) => [
    at(row - 1, column) ? "" : `M${column} ${row}h1`,
    at(row + 1, column) ? "" : `M${column} ${row + 1}h1`,
    at(row, column - 1) ? "" : `M${column} ${row}v1`,
    at(row, column + 1) ? "" : `M${column + 1} ${row}v1`,
  ];
  return pixelsOf(side).filter((pixel) => at(...pixel)).flatMap(edges).join("");
}

const tinted = (value, most, word = "") => ({
  fill: `rgba(${value > 0 ? MORE : LESS}, ${Math.abs(value) / most})`,
  dark: Math.abs(value) > 0.55 * most,
  word,
});

function grey(value, low, high) {
  const level = (value - low) / (high - low || 1);
  return { fill: `rgb(${Array(3).fill(Math.round(255 * level))})`, dark: level < 0.5, word: "" };
}

// A square of cells, each with a word in it, a line around some, and dots on others; only what changes is drawn anew.
function board(title) {
  const [cells, line, dots] = [svg("g"), svg("path", { class: "receiver" }), svg("path", { class: "astray" })];
  const picture = svg("svg", { "aria-hidden": "true", class: "board" }, cells, line, dots);
  const view = make("div", { class: "view" }, picture);
  const element = make("div", { style: `grid-area: ${title}` }, view, make("b"));

  function lay(side) {
    if (cells.childElementCount === side ** 2) return;
    picture.setAttribute("viewBox", `0 0 ${side} ${side}`);
    cells.replaceChildren(
      ...pixelsOf(side).map(([y, x]) => svg("g", {}, svg("rect", { x, y }), svg("text", { x: x + 0.5, y: y + 0.5 }))),
    );
  }
  function draw(name, drawn, { around = "", astray = "" } = {}) {
    const side = Math.sqrt(drawn.length);
    const size = (word) => (side > 3 ? [0.55, 0.55, 0.55, 0.42, 0.34][word.length] : 0.32);
    lay(side);
    for (const [n, { fill, word, dark, faint }] of drawn.entries()) {
      const [square, text] = cells.children[n].children;
      set(square, "fill", fill);
      set(square, "opacity", faint ? 0.35 : 1);
      set(text, "class", dark && !faint ? "on-dark" : "on-light");
      set(text, "font-size", size(word));
      if (text.textContent !== word) text.textContent = word;
    }
    set(line, "d", around);
    set(dots, "d", astray);
    element.lastChild.textContent = name;
  }
  return { element, view, draw };
}

// All weights, with a line around one row.
function table(side) {
  const canvas = make("canvas", { width: side ** 2, height: side ** 2 });
  const row = make("span", { class: "pixel", style: `width: 100%; height: ${100 / side ** 2}%` });
  const view = make("div", { class: "view" }, canvas, make("div", { class: "blocks", style: `--blocks: ${side}` }), row);
  const element = make("div", { style: "grid-area: matrix" }, view, make("b"));

  function fill(matrix) {
    const context = canvas.getContext("2d");
    const most = largest(matrix.flat());
    context.clearRect(0, 0, canvas.width, canvas.height);
    for (const [i, weights] of matrix.entries()) {
      for (const [j, weight] of weights.entries()) {
        context.fillStyle = tinted(weight, most).fill;
        context.fillRect(j, i, 1, 1);
      }
    }
    element.lastChild.textContent = `the matrix: ${count(some(matrix.flat()))} weights`;
  }
  const mark = (number) => { row.style.top = `${(100 * number) / side ** 2}%`; };
  return { element, view, fill, mark };
}

function drawBoards(boards, { side, still }, { weights }, { seen, result, along, number, row, window }, matrix) {
  const around = outline(row.map((_, j) => j === number), side);
  const bright = largest(still);
  const reads = seen.map((value, j) => ({ ...grey(value, 0, bright), word: signed(value), faint: !row[j] }));
  boards.image.draw("the image", reads, { around: outline(row, side) });
  const [low, high] = [Math.min(...result), Math.max(...result)];
  const astray = pixelsOf(side).filter((_, i) => !along[i]).map(([y, x]) => `M${x + 0.5} ${y + 0.5}h0`).join("");
  boards.result.draw("the result", result.map((value) => grey(value, low, high)), { around, astray });
  const sums = matrix.map(sum);
  const [most, mostOfSums] = [largest(matrix.flat()), largest(sums)];
  boards.sums.draw("sums of the rows", sums.map((value) => tinted(value, mostOfSums, signed(value))), { around });
  const product = (j) => (j === undefined ? tinted(0, most, "0") : tinted(row[j], most, `${signed(row[j])}·${seen[j]}`));
  if (weights === "free") boards.products.draw(`${some(row)} weights`, row.map((weight) => tinted(weight, most)));
  else boards.products.draw(`${some(row)} products: ${signed(result[number])}`, window.map(product));
}

export default {
  render({ model, el }) {
    const { image, kernel, free } = model.get("data");
    const side = image.length;
    const data = { side, kernel, still: image.flat(), free: [...unpack(free, Int8Array, 1)] };
    const state = () => model.get("state");
    const change = changer(model);

    const boards = Object.fromEntries(["image", "result", "products", "sums"].map((name) => [name, board(name)]));
    const all = table(side);
    const map = make("div", { class: "panels behind", role: "application", tabindex: 0 });
    map.append(...[...Object.values(boards), all].map(({ element }) => element));
    map.setAttribute("aria-label", "An image, its product with a matrix, what one pixel of that sums, and the sums of the matrix's rows");
    const hand = { side: () => side, at: () => state().pixel, move: (pixel) => change({ pixel }) };
    for (const name of ["image", "result", "sums"]) point(boards[name].view, hand);
    const number = () => state().pixel[0] * side + state().pixel[1];
    const move = ([i]) => change({ pixel: [Math.floor(i / side), i % side] });
    point(all.view, { side: () => side ** 2, at: () => [number(), number()], move });
    steer(map, hand);

    const kinds = { free: "free: any pixel", near: "near: a window of 3 × 3", shared: "shared: the same window for all" };
    const weights = choices("Weights", kinds, (value) => change({ weights: value }));
    const ends = { zeros: "zeros", circular: "the other side (circular)" };
    const border = choices("Beyond the border", ends, (value) => change({ border: value }));
    const right = (moved) => `by ${columns(moved)} to the right, in a circle`;
    const shift = slider("Image moved", [...image.keys()], right, (moved) => change({ moved }));
    const below = key({ astray: "a result that has not moved with the image" });
    const told = frame(el, TEXTS, [map, below], weights.element, border.element, shift.element);
    told.closest(".play").classList.add("wide");

    let [matrix, filled] = [[], ""];
    redraw(model, () => {
      const chosen = state();
      if (filled !== `${chosen.weights} ${chosen.border}`) {
        filled = `${chosen.weights} ${chosen.border}`;
        matrix = build(data, chosen);
        all.fill(matrix);
      }
      const found = compute(data, matrix, chosen);
      drawBoards(boards, data, chosen, found, matrix);
      all.mark(found.number);
      weights.check(chosen.weights);
      border.check(chosen.border);
      border.element.disabled = chosen.weights === "free";
      shift.show(chosen.moved);
      told.textContent = say(chosen, found, data, matrix);
    });
  },
};
