// Rank one: paint what four receivers of a patch wish to hear of the senders at one place, and see what one head can give.
import { brush, changer, drawnHops, frame, key, make, pixelsOf, presets, redraw, rounded, steer, sum, svg, written } from "./shared.js";

const TEXTS = {
  wish: "wish for two pairs, then click on a full cell, so that one pair is worth half. Then draw over the cells: one picture for all receivers, another one for each. A painted cell is full, half or empty.",
  find: "the receivers of a patch hear one picture α of the senders, each as loud as its β. Two pairs that ignore each other cannot be had: equal ones are mixed half and half, and of unequal ones the weaker gets nothing. Each further head brings one more picture.",
  keys: "With keys: arrows move the cell, Enter fills it, makes it half or empties it. Nearest is what leaves the smallest sum of squares, and of several such the most even. Between the hops of several heads linear maps may also subtract. A factor that all weights share is left to the values: the largest β is 1, α sums to 1. Pixels are (row, column), counted from (0, 0) at the top left.",
};

const transpose = (matrix) => matrix[0].map((_, column) => matrix.map((row) => row[column]));
const dot = (one, other) => sum(one.map((value, place) => value * other[place]));
const times = (matrix, vector) => matrix.map((row) => dot(row, vector));
function product(left, right) {
  const columns = transpose(right);
  return left.map((row) => times(columns, row));
}
const scale = (matrix, factor) => matrix.map((row) => row.map((value) => value * factor));
const trace = (matrix) => sum(matrix.map((row, place) => row[place]));
const combine = (left, factor, right) => left.map((row, i) => row.map((value, j) => value + factor * right[i][j]));

// The projection on the leading eigenvectors of a symmetric matrix, and how many there are: a high power leaves no others.
function leading(matrix) {
  let power = matrix;
  for (let turn = 0; turn < 30; turn++) {
    const square = product(power, power);
    power = scale(square, 1 / trace(square));
  }
  const count = Math.round(1 / trace(product(power, power)));
  return { count, projection: scale(power, count) };
}

// The nearest product of a column and a row: the leading singular vectors, and what 1 to 4 heads can meet of the squares.
function fit(wish) {
  const gram = product(wish, transpose(wish));
  const total = trace(gram);
  if (!total) return { alpha: wish[0], beta: [0, 0, 0, 0], nearest: wish, met: [0, 0, 0, 0] };
  const squares = [];
  for (let rest = gram; squares.length < 4 && trace(rest) > 1e-9 * total; ) {
    const { count, projection } = leading(rest);
    const square = trace(product(rest, projection)) / count;
    squares.push(...Array(count).fill(square));
    rest = combine(rest, -square, projection);
  }
  const row = times(transpose(wish), times(leading(gram).projection, wish.map(sum)));
  const column = times(wish, row).map((value) => value / dot(row, row));
  return {
    alpha: row.map((value) => value / sum(row)),
    beta: column.map((value) => value / Math.max(...column)),
    nearest: column.map((value) => row.map((other) => value * other)),
    met: [1, 2, 3, 4].map((heads) => sum(squares.slice(0, heads)) / total),
  };
}

const GAP = 0.12; // between the squares of two receivers, in cells, on either side
// The receiver and the sender of a cell: four squares, one for each receiver, of sixteen cells, one for each patch.
const pair = ([row, column]) => [2 * Math.floor(row / 4) + Math.floor(column / 4), 4 * (row % 4) + (column % 4)];

function say({ wish }, { nearest, met }, [i, j], [receiver, sender]) {
  if (!met[3]) return "Nothing is wished for.";
  const [one, two, three, four] = met.map((share) => rounded(share));
  return (
    `Of the wish one head can meet ${one}, two heads ${two}, three ${three}, four ${four}. In the framed cell ` +
    `${written(receiver)} wishes to hear ${written(sender)} with ${rounded(wish[i][j])} and hears it with ${rounded(nearest[i][j])}.`
  );
}

// A square of cells, as full as the sizes of their values; a negative one is there too much.
function drawnBlock(name, side) {
  const start = (place) => place + (place === 4 ? GAP : 0);
  const length = (place) => 1 - (side === 8 && (place === 3 || place === 4) ? GAP : 0);
  const box = ([y, x]) => ({ x: start(x), y: start(y), width: length(x), height: length(y) });
  const squares = pixelsOf(side).map((cell) => svg("rect", { class: "cell", ...box(cell) }));
  const element = svg("g", { class: name }, ...squares);
  function draw(values) {
    for (const [index, value] of values.entries()) {
      squares[index].style.fillOpacity = Math.min(1, Math.abs(value));
      squares[index].classList.toggle("surplus", value < -1e-9);
    }
  }
  return { element, draw };
}

function titled(name, title, box, ...shapes) {
  const picture = svg("svg", { viewBox: box, class: "block" }, ...shapes);
  return make("div", { class: name }, picture, make("b", {}, title));
}

// The wish, the nearest product or what is left over, with a frame around a cell.
function drawnWeights(name, title) {
  const block = drawnBlock(name, 8);
  const chosen = svg("rect", { class: "chosen", width: 1, height: 1 });
  const element = titled(`${name}-panel`, title, "-0.1 -0.1 8.2 8.2", block.element, chosen);
  function draw(matrix, [y, x]) {
    block.draw(pixelsOf(8).map(pair).map(([i, j]) => matrix[i][j]));
    for (const [axis, place] of Object.entries({ x, y })) chosen.setAttribute(axis, place);
  }
  return { element, draw, picture: block.element };
}

// A column of the receivers, times a row of the senders, both folded as they lie on the map.
function drawnFactors() {
  const [beta, alpha] = [drawnBlock("beta", 2), drawnBlock("alpha", 4)];
  beta.element.setAttribute("transform", "translate(0.5 1)");
  alpha.element.setAttribute("transform", "translate(3.5 0)");
  const text = (words, x, y) => svg("text", { x, y, "font-size": 0.4 }, words);
  const numbers = pixelsOf(2).map(([row, column]) => text("", 1 + column, 1.5 + row));
  const names = [text("β", 1.5, 0.6), text("×", 3, 2), text("α", 7.8, 2)];
  const element = titled("factors-panel", "β (receivers) × α (senders)", "0 -0.1 8.2 4.2", beta.element, alpha.element, ...numbers, ...names);
  function draw(fitted) {
    beta.draw(fitted.beta);
    alpha.draw(fitted.alpha.map((value) => value / (Math.max(...fitted.alpha) || 1)));
    for (const [place, value] of fitted.beta.entries()) numbers[place].textContent = rounded(value);
  }
  return { element, draw };
}

function drawnHeads() {
  const bars = [1, 2, 3, 4].map((heads) => svg("rect", { class: "met", x: 2 * heads - 1.8, width: 1.6 }));
  const text = (words, place, y) => svg("text", { x: 2 * place + 1, y, "font-size": 0.4 }, words);
  const numbers = bars.map((_, place) => text("", place, 0));
  const names = bars.map((_, place) => text(place + 1, place, 3.75));
  const element = titled("heads-panel", "what 1 to 4 heads can meet", "0 0 8 4.1", ...bars, ...numbers, ...names);
  function draw(met) {
    for (const [place, share] of met.entries()) {
      bars[place].setAttribute("y", 3.4 - 2.6 * share);
      bars[place].setAttribute("height", 2.6 * share + 0.04);
      numbers[place].setAttribute("y", 3 - 2.6 * share);
      numbers[place].textContent = rounded(share);
    }
  }
  return { element, draw };
}

export default {
  render({ model, el }) {
    const { wishes, receivers, senders } = model.get("data");
    const state = () => model.get("state");
    const change = changer(model);
    const set = (painted, value) => {
      const wish = state().wish.map((row) => [...row]);
      for (const [i, j] of painted.map(pair)) wish[i][j] = value;
      change({ wish, cell: painted.at(-1) });
    };
    const press = () => {
      const [i, j] = pair(state().cell);
      const now = state().wish[i][j];
      const next = now > 0.75 ? 0.5 : now > 0.25 ? 0 : 1;
      set([state().cell], next);
      return next;
    };

    const wish = drawnWeights("wish", "the wish: paint it");
    const nearest = drawnWeights("nearest", "the nearest: β times α");
    const left = drawnWeights("left", "what is left over");
    const hops = drawnHops();
    const path = make("div", {}, hops.picture, make("b", {}, "the framed cell's one path"));
    const [factors, heads] = [drawnFactors(), drawnHeads()];
    const map = make("div", { class: "panels three", role: "application", tabindex: 0 });
    map.append(...[wish, nearest, left].map(({ element }) => element), path, make("div", { class: "aside" }, factors.element, heads.element));
    map.setAttribute("aria-label", "The weights of four receivers and sixteen senders: as wished, as near as one head comes, and what is left over");
    const hand = { side: () => 8, at: () => state().cell, move: (cell) => change({ cell }), pick: press, press, set };
    steer(map, hand);
    brush(wish.picture, hand);
    const choice = presets("Wish for", Object.keys(wishes), (name) => change({ wish: wishes[name] }));
    const colours = key({ weight: "weight; left over: missing", surplus: "left over: too much" });
    const told = frame(el, TEXTS, [map, colours]);
    map.before(choice);
    told.closest(".play").classList.add("wide");

    redraw(model, () => {
      const fitted = fit(state().wish);
      const [i, j] = pair(state().cell);
      const [receiver, sender] = [receivers[i], senders[j]];
      wish.draw(state().wish, state().cell);
      nearest.draw(fitted.nearest, state().cell);
      left.draw(combine(state().wish, -1, fitted.nearest), state().cell);
      factors.draw(fitted);
      heads.draw(fitted.met);
      hops.draw({ side: 8, patch: 2, receiver, sender, first: "across" });
      told.textContent = say(state(), fitted, [i, j], [receiver, sender]);
    });
  },
};
