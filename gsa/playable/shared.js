// What the figures share: their frame, their controls, and a map that pointer, finger and keys move over.

export const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export const BLUE = [0, 114 / 255, 178 / 255];

export function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// In Jupyter each figure has a copy of this file, so no count could tell them apart.
export const unique = (word) => `${word}-${Math.random().toString(36).slice(2)}`;
export const sum = (values) => values.reduce((total, value) => total + value, 0);
export const count = (value) => value.toLocaleString("en");
export const rounded = (value, digits = 2) => (value + 1e-9).toFixed(digits).replace(/^-(?=[0.]+$)/, "").replace("-", "−");
export const pixelsOf = (side) => Array.from({ length: side ** 2 }, (_, number) => [Math.floor(number / side), number % side]);
export const written = ([row, column]) => `(${row}, ${column})`;

export function softmax(logits) {
  const most = Math.max(...logits);
  const loudness = logits.map((logit) => Math.exp(logit - most));
  const all = sum(loudness);
  return loudness.map((each) => each / all);
}

// Puts a map, what stands below it and its controls into the page, with what to try, what to find and how. Returns where
// the words go.
export function frame(el, { wish, find, keys }, [map, ...below], ...controls) {
  const told = make("p", { class: "words", role: "status" });
  const how = make("p", { class: "keys", id: unique("keys") }, keys);
  map.setAttribute("aria-describedby", how.id);
  const columns = make("div", { class: "columns" }, make("div", {}, map, ...below), told, make("div", {}, ...controls));
  const task = (title, text) => make("p", {}, make("strong", {}, `${title}: `), text);
  el.append(make("div", { class: "play" }, task("Try", wish), columns, task("Find", find), how));
  return told;
}

// Changes parts of the state, which Python then knows: change({ name: value }).
export const changer = (model) => (part) => {
  model.set("state", { ...model.get("state"), ...part });
  model.save_changes();
};

// Buttons under a legend; press(name).
export function presets(legend, names, press) {
  const buttons = names.map((name) => make("button", { type: "button" }, name));
  for (const button of buttons) button.addEventListener("click", () => press(button.textContent));
  return make("fieldset", {}, make("legend", {}, legend), make("div", { class: "presets" }, ...buttons));
}

// Radio buttons, { value: label }, under a legend.
export function choices(legend, labels, choose) {
  const name = unique("choice");
  const radios = Object.keys(labels).map((value) => make("input", { type: "radio", name, value }));
  const rows = radios.map((radio) => make("label", {}, radio, labels[radio.value]));
  const element = make("fieldset", { class: "choices" }, make("legend", {}, legend), ...rows);
  element.addEventListener("change", ({ target }) => choose(target.value));
  return { element, check: (value) => radios.forEach((radio) => { radio.checked = radio.value === String(value); }) };
}

// A slider over values, which says in words where it stands.
export function slider(name, values, write, choose) {
  const input = make("input", { type: "range", min: 0, max: values.length - 1 });
  const words = make("span");
  input.addEventListener("input", () => choose(values[input.value]));
  function show(value) {
    input.value = values.indexOf(value);
    words.textContent = write(value);
    input.setAttribute("aria-valuetext", words.textContent);
  }
  return { element: make("label", { class: "slider" }, `${name} `, words, input), show };
}

// Check boxes, { name: label }, under a legend; choose(name, on).
export function switches(legend, labels, choose) {
  const boxes = Object.keys(labels).map((value) => make("input", { type: "checkbox", value }));
  const rows = boxes.map((box) => make("label", {}, box, labels[box.value]));
  const element = make("fieldset", { class: "choices" }, make("legend", {}, legend), ...rows);
  element.addEventListener("change", ({ target }) => choose(target.value, target.checked));
  return { element, check: (values) => boxes.forEach((box) => { box.checked = values[box.value]; }) };
}

// A legend: { class: word }, each with a square of the class's colour.
export function key(words) {
  return make("p", { class: "key" }, ...Object.entries(words).map(([name, word]) => make("span", { class: name }, word)));
}

// Numbers that Python has packed as the bytes of integers, divided by what stands for one.
export function unpack(packed, Integers, one) {
  const bytes = Uint8Array.from(atob(packed), (byte) => byte.charCodeAt());
  return Float64Array.from(new Integers(bytes.buffer), (value) => value / one);
}

// Draws colours, three numbers a pixel, each pixel as clear as its weight.
export function paint(canvas, colours, weights) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let index = 0; index < colours.length / 3; index++) {
    for (let channel = 0; channel < 3; channel++) image.data[4 * index + channel] = 255 * colours[3 * index + channel];
    image.data[4 * index + 3] = 255 * (weights?.[index] ?? 1);
  }
  context.putImageData(image, 0, 0);
}

// A map over its title, with a frame around a pixel, or a square of them whose corner it is: mark(pixel, size).
export function panel(side, title, name = "") {
  const canvas = make("canvas", { width: side, height: side, class: name });
  const square = make("span", { class: "pixel" });
  const view = make("div", { class: "view" }, canvas, square);
  function mark([row, column], size = 1) {
    square.style.width = square.style.height = `${(100 * size) / side}%`;
    [square.style.top, square.style.left] = [row, column].map((place) => `${(100 * place) / side}%`);
  }
  return { canvas, view, mark, element: make("div", {}, view, make("b", {}, title)) };
}

// A photograph under a map of weights, the bluer the more, and frames around some of its pixels: { class: pixel }.
export function overlay(photograph, side) {
  const canvas = make("canvas", { width: side, height: side, class: "weights" });
  const photo = make("div", { class: "photo", style: `background-image: url(${photograph})` });
  const frames = make("div", { "aria-hidden": "true" });
  const element = make("div", { class: "view" }, photo, canvas, frames);
  const size = `${100 / side}%`;

  function draw(weights, pixels) {
    const context = canvas.getContext("2d");
    const image = context.createImageData(side, side);
    const most = Math.max(...weights);
    for (const [index, weight] of weights.entries()) image.data.set([0, 114, 178, (255 * weight) / most], 4 * index);
    context.putImageData(image, 0, 0);
    frames.replaceChildren(
      ...Object.entries(pixels).map(([name, [row, column]]) => {
        const place = `width: ${size}; height: ${size}; top: ${(100 * row) / side}%; left: ${(100 * column) / side}%`;
        return make("span", { class: `pixel ${name}`, style: place });
      }),
    );
  }
  return { element, draw };
}

// A chart with an axis of steps and a logarithmic one, which begins at `low`: paths by name, drawn one over the other.
export function chart(names, steps, { low, decades, powers }) {
  const [left, right, top, bottom] = [16, 98, 3, 70]; // in hundredths of its width
  const across = (place) => left + 4 + ((right - left - 8) * place) / (steps.length - 1);
  const up = (value) => bottom - ((bottom - top) * Math.log10(value / low)) / decades;
  const text = (words, x, y, name = "") => svg("text", { x, y, class: name, "font-size": 5 }, words);
  const label = text("", (left + right) / 2, bottom + 13);
  const paths = names.map((name) => svg("path", { class: name }));
  const element = svg("svg", { viewBox: "0 0 100 87", "aria-hidden": "true", class: "costs" });
  element.append(svg("path", { class: "axis", d: `M${left} ${top}V${bottom}H${right}` }), ...paths, label);
  element.append(...steps.map((step, place) => text(step, across(place), bottom + 6)));
  element.append(...Object.entries(powers).map(([power, value]) => text(power, left - 1.5, up(value), "last")));
  return {
    element,
    line: (values) => `M${values.map((value, place) => `${across(place)} ${up(value)}`).join("L")}`,
    dot: (value, place) => `M${across(place)} ${up(value)}h0`,
    level: (value) => `M${left} ${up(value)}H${right}`,
    draw(shown, words) {
      for (const [index, name] of names.entries()) paths[index].setAttribute("d", shown[name]);
      label.textContent = words;
    },
  };
}

// A bent arrow with a number beside its bend.
export function arrow(from, to, side, label) {
  const [[y, x], [toY, toX]] = [from, to].map((pixel) => pixel.map((place) => place + 0.5));
  const [dx, dy, unit] = [toX - x, toY - y, side / 50];
  if (!dx && !dy) return [];
  const beside = (share) => [x + dx / 2 + dy * share, y + dy / 2 - dx * share];
  const bend = beside(0.2);
  const angle = Math.atan2(toY - bend[1], toX - bend[0]);
  const end = [toX - 1.4 * unit * Math.cos(angle), toY - 1.4 * unit * Math.sin(angle)];
  const curve = `M${x} ${y}Q${bend} ${end}`;
  const turn = `translate(${end}) rotate(${(angle * 180) / Math.PI}) scale(${unit})`;
  const [textX, textY] = beside(0.1 + side / 20 / Math.hypot(dx, dy));
  return [
    svg("path", { class: "hop", d: curve, "stroke-width": 0.3 * unit }),
    svg("path", { class: "pulse", d: curve, pathLength: 1, "stroke-width": 0.6 * unit, style: `--hop: ${label}` }),
    svg("path", { class: "head", d: "M0.9 0L-0.5 0.6V-0.6z", transform: turn }),
    svg("text", { x: textX, y: textY, "font-size": side / 18, "stroke-width": side / 90 }, label),
  ];
}

// What the relay pixel sums over in hop 1, what the receiver sums over in hop 2, and the one pixel of both.
export function groups({ side, patch, receiver, sender, first }) {
  const range = (start, length, step) => Array.from({ length }, (_, index) => start + index * step);
  const block = ([rows, columns]) => rows.flatMap((row) => columns.map((column) => [row, column]));
  const place = (pixel) => block(pixel.map((x) => range(x % patch, side / patch, patch)));
  const room = (pixel) => block(pixel.map((x) => range(x - (x % patch), patch, 1)));
  const meet = (inRoomOf, atPlaceOf) => inRoomOf.map((x, axis) => x - (x % patch) + (atPlaceOf[axis] % patch));
  return first === "across"
    ? { one: place(sender), two: room(receiver), relay: meet(receiver, sender) }
    : { one: room(sender), two: place(receiver), relay: meet(sender, receiver) };
}

// The path of HopMap's state, on its map in patches, with the pixels that both hops sum over.
export function drawnHops() {
  const names = ["ground", "one", "two", "relay", "sender", "thin", "thick", "receiver"];
  const layers = Object.fromEntries(names.map((name) => [name, svg("path", { class: name })]));
  const path = svg("g");
  const picture = svg("svg", { "aria-hidden": "true" }, ...Object.values(layers), path);
  const squares = (pixels) => pixels.map(([row, column]) => `M${column} ${row}h1v1h-1z`).join("");
  const lines = (side, step) => {
    const places = Array.from({ length: side / step + 1 }, (_, index) => index * step);
    return places.map((place) => `M0 ${place}h${side}M${place} 0v${side}`).join("");
  };

  function draw(state) {
    const { side, patch, receiver, sender } = state;
    const { one, two, relay } = groups(state);
    const shapes = {
      ground: `M0 0h${side}v${side}h-${side}z`,
      one: squares(one),
      two: squares(two),
      relay: squares([relay]),
      sender: squares([sender]),
      thin: lines(side, 1),
      thick: lines(side, patch),
      receiver: squares([receiver]),
    };
    for (const [name, shape] of Object.entries(shapes)) layers[name].setAttribute("d", shape);
    path.replaceChildren(...arrow(sender, relay, side, "1"), ...arrow(relay, receiver, side, "2"));
    picture.setAttribute("viewBox", `-0.1 -0.1 ${side + 0.2} ${side + 0.2}`);
  }
  return { picture, draw };
}

const within = (side) => (place) => Math.min(side() - 1, Math.max(0, place));

// The pixel of a square map that an event is over.
function under(map, side, { clientX, clientY }) {
  const { left, top, width, height } = map.getBoundingClientRect();
  const shares = [(clientY - top) / height, (clientX - left) / width];
  return shares.map((share) => Math.floor(share * side())).map(within(side));
}

// Calls move(pixel) where a pointer is over the map or a finger drags, and pick() for a click or a second tap.
export function point(map, { side, at, move, pick = () => {} }) {
  const here = (event) => String(under(map, side, event)) === String(at());
  let picks = false;
  map.addEventListener("pointermove", (event) => {
    if ((event.pointerType === "mouse" || event.buttons) && !here(event)) {
      picks = false;
      move(under(map, side, event));
    }
  });
  map.addEventListener("pointerdown", (event) => {
    picks = here(event);
    move(under(map, side, event));
  });
  map.addEventListener("click", (event) => picks && here(event) && pick());
}

// Calls press() where a pointer goes down, which says what it paints, set(pixels, that) for those on the way of its
// stroke, and move(pixel) where it is over the map before.
export function brush(map, { side, at, move, press, set }) {
  let held = null;
  const way = (from, to) => {
    const steps = Math.max(1, ...to.map((place, axis) => Math.abs(place - from[axis])));
    const between = (step) => from.map((place, axis) => Math.round(place + ((to[axis] - place) * step) / steps));
    return Array.from({ length: steps }, (_, index) => between(index + 1));
  };
  map.addEventListener("pointerdown", (event) => {
    map.setPointerCapture(event.pointerId);
    move(under(map, side, event));
    held = press();
  });
  map.addEventListener("pointermove", (event) => {
    const to = under(map, side, event);
    if (String(to) === String(at())) return;
    if (event.buttons) set(way(at(), to), held);
    else move(to);
  });
}

// Calls move(pixel) when an arrow key steps, and pick() for Enter or the space bar.
export function steer(map, { side, at, move, pick = () => {} }) {
  map.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (step) move(at().map((place, axis) => place + step[axis]).map(within(side)));
    else if (event.key === "Enter" || event.key === " ") pick();
    else return;
    event.preventDefault();
  });
}

// Draws once a frame, however often the model changes within it.
export function redraw(model, draw) {
  let waiting = false;
  model.on("change:state", () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; draw(); });
    waiting = true;
  });
  draw();
}
