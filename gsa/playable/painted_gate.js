// Paint the gate: a slider for each pixel of a trained network's last map, set by hand, and what the network answers.
import { BLUE, brush, changer, choices, frame, make, paint, panel, pixelsOf, redraw, rounded, slider, softmax, steer, sum, svg, unique, unpack, written } from "./shared.js";

const TEXTS = {
  wish: "close pixels until the astronaut is a cat. Make the cup a ship, and then be surer of it, with sliders above 1. Last, try to make an automobile of Chelsea.",
  find: "sliders decide which pixels are heard, and so the answer; above 1 they make it surer, on no new evidence. A stroke changes the painted pixels alone, and brings nothing from elsewhere. No pixel of Chelsea says automobile, and no slider from 0 up makes her one, however loud. With all closed, only the biases of the linear layer are left, and they say bird.",
  keys: "With keys: arrows move the brush, Enter or the space bar paints. With a finger: draw. Pixels are (row, column), counted from (0, 0) at the top left.",
};
const ORANGE = [200 / 255, 78 / 255, 0];
const POSITIONS = { 0: "0, closed", 0.5: "½, half as loud", 1: "1, open", 2: "2, twice as loud", 4: "4, four times as loud" };

const button = (press) => {
  const element = make("button", { type: "button" });
  element.addEventListener("click", press);
  return element;
};
const most = (values) => values.indexOf(Math.max(...values));

// The photograph under the gate, with the sliders that are not 1, and beside it what says the word.
function desk({ side, size }, hand) {
  const [photo, said] = [panel(size, "the photograph, gated", "gated"), panel(side, "", "said")];
  const [note, title] = [make("small"), said.element.querySelector("b")];
  photo.element.append(make("small", {}, "Paint on it. A number is g, where g is not 1."));
  said.element.append(note);
  const places = pixelsOf(side);
  const numbers = places.map(([row, column]) => svg("text", { x: column + 0.5, y: row + 0.5 }));
  const lines = Array.from({ length: side - 1 }, (_, index) => `M0 ${index + 1}h${side}M${index + 1} 0v${side}`).join("");
  for (const { canvas, view } of [photo, said]) {
    canvas.after(svg("svg", { viewBox: `0 0 ${side} ${side}`, "aria-hidden": "true" }, svg("path", { class: "grid", d: lines })));
    brush(view, hand);
  }
  photo.view.querySelector("svg").append(...numbers);
  const element = make("div", { class: "map desk", role: "application", tabindex: 0 }, photo.element, said.element);
  element.setAttribute("aria-label", `A photograph under ${side} by ${side} sliders, and what each pixel says`);
  steer(element, hand);

  const block = size / side;
  const below = (index) => Math.floor(index / size / block) * side + Math.floor((index % size) / block);
  function draw({ gate, word, pixel }, { colours, leads }, name) {
    const light = gate.map(Math.sqrt); // g times the light, in the steps of a screen
    paint(photo.canvas, colours.map((value, index) => value * light[below(Math.floor(index / 3))]));
    const values = leads.map((each, index) => gate[index] * each[word]);
    paint(said.canvas, values.flatMap((value) => (value > 0 ? BLUE : ORANGE)), values.map(Math.abs));
    title.textContent = `what says ${name}`;
    note.textContent = `Blue: ${name} is loudest. Orange: another word is.`;
    for (const [index, number] of numbers.entries()) number.textContent = gate[index] === 1 ? "" : String(gate[index]).replace("0.5", "½");
    photo.mark(pixel.map((place) => place * block), block);
    said.mark(pixel);
  }
  return { element, draw };
}

// The probability of each class, in rows of which each is also the button that chooses its class.
function answers(classes, choose) {
  const name = unique("class");
  const rows = classes.map((word, value) => {
    const share = make("b");
    return { share, element: make("label", {}, make("input", { type: "radio", name, value }), word, share) };
  });
  const element = make("fieldset", { class: "answers" }, make("legend", {}, "The network says"), ...rows.map((row) => row.element));
  element.append(make("small", {}, "Choose a word to see what says it."));
  element.addEventListener("change", ({ target }) => choose(Number(target.value)));

  function show(shares, word) {
    for (const [index, { element: row, share }] of rows.entries()) {
      row.style.setProperty("--share", shares[index]);
      row.classList.toggle("most", index === most(shares));
      row.control.checked = index === word;
      share.textContent = rounded(shares[index]);
    }
  }
  return { element, show };
}

// A photograph, what each pixel of its last map adds to the logit of each class, how much more that is than what it adds to
// any other (1 is the most of all pixels), and the class to which it adds most.
function read({ pixels, said }, classes) {
  const values = Array.from(unpack(said, Float32Array, 1));
  const adds = Array.from({ length: values.length / classes }, (_, index) => values.slice(index * classes, (index + 1) * classes));
  const leads = adds.map((each) => each.map((value, word) => value - Math.max(...each.filter((_, index) => index !== word))));
  const largest = Math.max(...leads.flat());
  return { colours: unpack(pixels, Uint8Array, 255), adds, leads: leads.map((each) => each.map((value) => value / largest)), loudest: adds.map(most) };
}

function say(classes, shares, loudest, { gate, word, pixel }, side) {
  const [first, second] = shares.map((_, index) => index).sort((one, other) => shares[other] - shares[one]);
  const number = pixel[0] * side + pixel[1];
  const saying = gate.filter((_, index) => loudest[index] === word);
  const some = (values, test) => values.filter(test).length;
  return (
    `The network says ${classes[first]} with probability ${rounded(shares[first])}; next comes ${classes[second]}, ${rounded(shares[second])}. ` +
    `Closed: ${some(gate, (g) => g === 0)} of ${gate.length} pixels; turned up: ${some(gate, (g) => g > 1)}. Pixels that say ` +
    `${classes[word]}: ${saying.length}, of them closed: ${some(saying, (g) => g === 0)}. ${written(pixel)}, with ` +
    `g = ${gate[number]}, says ${classes[loudest[number]]}.`
  );
}

export default {
  render({ model, el }) {
    const data = model.get("data");
    const { side, gates, classes, bias, photographs } = data;
    const all = photographs.map((each) => read(each, classes.length));
    const change = changer(model);
    const at = () => model.get("state").pixel;
    const set = (pixels, g) => {
      const painted = new Set(pixels.map(([row, column]) => row * side + column));
      change({ gate: model.get("state").gate.map((old, index) => (painted.has(index) ? g : old)), pixel: pixels.at(-1) });
    };
    const press = () => {
      const g = model.get("state").brush;
      set([at()], g);
      return g;
    };
    const map = desk(data, { side: () => side, at, move: (pixel) => change({ pixel }), pick: press, press, set });
    const answer = answers(classes, (word) => change({ word }));
    const position = slider("Paint with g =", gates, (g) => POSITIONS[g], (value) => change({ brush: value }));
    const flat = (g) => Array.from({ length: side ** 2 }, () => g);
    const flood = button(() => change({ gate: flat(model.get("state").brush) }));
    const only = button(() => {
      const { photograph, gate, word } = model.get("state");
      change({ gate: gate.map((g, index) => (all[photograph].loudest[index] === word ? g : 0)) });
    });
    const titles = Object.fromEntries(photographs.map(({ title }, index) => [index, title]));
    const choice = choices("Photograph", titles, (index) => change({ photograph: Number(index), gate: flat(1) }));
    const credit = make("p", { class: "keys" });
    const buttons = make("p", { class: "buttons" }, flood, only);
    const told = frame(el, TEXTS, [map.element, answer.element], position.element, buttons, choice.element, credit);
    told.closest(".play").classList.add("wide", "painted");

    redraw(model, () => {
      const state = model.get("state");
      const { gate, word, brush, photograph } = state;
      const { adds, loudest } = all[photograph];
      const shares = softmax(bias.map((b, index) => b + sum(adds.map((each, place) => gate[place] * each[index]))));
      map.draw(state, all[photograph], classes[word]);
      answer.show(shares, word);
      position.show(brush);
      flood.textContent = `all sliders to ${brush}`;
      only.textContent = `close what does not say ${classes[word]}`;
      choice.check(photograph);
      credit.textContent = `Photograph: ${photographs[photograph].credit}.`;
      told.textContent = say(classes, shares, loudest, state, side);
    });
  },
};
