// θ's grid under a reader's hand: where an affine transformation sends it on a photograph, and what is read there.
import { STEPS, changer, frame, make, paint, point, presets, redraw, rounded, steer, svg, switches, unpack, written } from "./shared.js";

const TEXTS = {
  wish: "drag the corners inwards, then turn the grid. Set “turn by 30°” and make the map wide: can you move the corners until the lines meet at 90° again? Then the identity, with align_corners in one of the two functions.",
  find: "a smaller grid makes a larger picture, and a grid that turns to one side turns the picture to the other: θ moves the reader, not the page. On the wide map a unit across is more pixels than a unit down, so what turned now shears; where the lines meet at 90° but the two steps differ, it still stretches. With align_corners the corners of the grid, ±1, are the middles of the outermost pixels, half a pixel inside of their edges; where one function takes it so and the other does not, the identity is a zoom.",
  keys: "With keys: tab to a handle or to the picture, arrows move the handle or the framed pixel. With a finger: drag. The filled corner is read into the top left of the picture. A corner takes the opposite one along, its neighbours stay; the handle in the middle moves the whole grid. Places are (row, column), counted from (0, 0) at the top left. Outside of the map there is nothing, which reads as black.",
};
const HANDLES = {
  "top left corner": [-1, -1],
  "top right corner": [1, -1],
  "bottom left corner": [-1, 1],
  "bottom right corner": [1, 1],
  "middle of the grid": [0, 0],
};
const POSES = {
  "identity": [[1, 0, 0], [0, 1, 0]],
  "turn by 30°": [[0.866, -0.5, 0], [0.5, 0.866, 0]],
  "zoom in": [[0.5, 0, 0], [0, 0.5, 0]],
  "mirror": [[-1, 0, 0], [0, 1, 0]],
};
const ACROSS = [-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1]; // where the lines of the grid are drawn
const [FAR, STEP] = [1.5, 0.1]; // how far from the middle of the map a handle goes, and how far by a key, in θ's units

// From pixels to θ's units and back along an axis of n pixels, with align_corners or without.
const toUnits = (place, n, aligned) => (2 * place + 1 - aligned) / (n - aligned) - 1;
const toPixels = (unit, n, aligned) => ((unit + 1) * (n - aligned) + aligned - 1) / 2;

const send = (theta, [x, y]) => theta.map(([across, down, shift]) => across * x + down * y + shift);
const limit = (value, most) => Math.min(most, Math.max(-most, value));

// θ after a handle has been dragged to a target. Both stay within reach, and so does the corner opposite.
function dragTo(theta, [x, y], target) {
  return theta.map(([across, down, shift], axis) => {
    if (!x) {
      const reach = Math.max(0, FAR - Math.abs(across) - Math.abs(down));
      return [across, down, Math.round(100 * limit(target[axis], reach)) / 100];
    }
    const away = limit(target[axis] - shift, FAR - Math.abs(shift)) - across * x - down * y;
    const half = Math.round(50 * away) / 100;
    return [across + half * x, down + half * y, shift].map((number) => Math.round(1000 * number) / 1000);
  });
}

// How θ lies on a map in this state: the places, (row, column) in pixels, of points in units and of pixels, and the units
// of a place. A wide map begins some rows below the square that it is shown in.
function lay({ theta, wide, affine_grid, grid_sample }, side) {
  const sizes = [wide ? side / 2 : side, side];
  const place = (point) => send(theta, point).reverse().map((unit, axis) => toPixels(unit, sizes[axis], Number(grid_sample)));
  const placeOf = (pixel) => place(pixel.map((each, axis) => toUnits(each, sizes[axis], Number(affine_grid))).reverse());
  const unitsOf = (at) => at.map((each, axis) => toUnits(each, sizes[axis], Number(grid_sample))).reverse();
  return { sizes, above: (side - sizes[0]) / 2, place, placeOf, unitsOf };
}

// A map of colours, read bilinearly at (row, column); zero outside.
function read(pixels, [height, width], [row, column]) {
  const colour = [0, 0, 0];
  for (const y of [Math.floor(row), Math.floor(row) + 1]) {
    for (const x of [Math.floor(column), Math.floor(column) + 1]) {
      if (y < 0 || x < 0 || y >= height || x >= width) continue;
      const weight = (1 - Math.abs(y - row)) * (1 - Math.abs(x - column));
      for (let channel = 0; channel < 3; channel++) colour[channel] += weight * pixels[3 * (y * width + x) + channel];
    }
  }
  return colour;
}

function say(pixel, placeOf) {
  const [origin, right, below] = [[0, 0], [0, 1], [1, 0]].map(placeOf);
  const [along, down] = [right, below].map((place) => place.map((each, axis) => each - origin[axis]));
  const area = along[1] * down[0] - along[0] * down[1];
  const angle = (Math.atan2(Math.abs(area), along[0] * down[0] + along[1] * down[1]) * 180) / Math.PI;
  const [one, other] = [along, down].map((step) => rounded(Math.hypot(...step)));
  const first = `Pixel ${written(pixel)} is read at ${written(placeOf(pixel).map((each) => rounded(each)))}.`;
  if (rounded(Math.abs(area)) === "0.00") {
    return `${first} The grid has no area: the picture is that of a line, or of a point.`;
  }
  const kept = one === other && rounded(angle, 0) === "90";
  return (
    `${first} From a pixel to the next the reader goes ${one} pixels along a row of the grid and ${other} along a column, which ` +
    `meet at ${rounded(angle, 0)}°: shapes are ${kept ? "" : "not "}kept. In the picture they have ` +
    `${rounded(1 / Math.abs(area))} times their area${area < 0 ? " and are mirrored" : ""}.`
  );
}

// The map with a margin of nothing around it, under the grid and its handles.
function drawnGrid(side, model, set) {
  const [margin, whole] = [side / 4, 1.5 * side];
  const canvas = make("canvas", { width: whole, height: whole });
  const [edge, casing, lines] = ["edge", "casing", "lines"].map((name) => svg("path", { class: name }));
  const dot = svg("circle", { class: "dot", r: side / 50 });
  const box = `${-margin - 0.5} ${-margin - 0.5} ${whole} ${whole}`;
  const drawing = svg("svg", { viewBox: box, "aria-hidden": "true" }, edge, casing, lines, dot);
  const handles = Object.entries(HANDLES).map(([name, corner]) => {
    return { corner, button: make("button", { type: "button", class: "handle", "aria-label": name }) };
  });
  const element = make("div", { class: "view" }, canvas, drawing, ...handles.map(({ button }) => button));

  const pull = (corner, target) => set(dragTo(model.get("state").theta, corner, target));
  function unitsAt({ clientX, clientY }) {
    const { left, top, width } = element.getBoundingClientRect();
    const [row, column] = [clientY - top, clientX - left].map((length) => (length / width) * whole - margin - 0.5);
    const { above, unitsOf } = lay(model.get("state"), side);
    return unitsOf([row - above, column]);
  }
  for (const { corner, button } of handles) {
    button.addEventListener("pointerdown", (event) => button.setPointerCapture(event.pointerId));
    button.addEventListener("pointermove", (event) => event.buttons && pull(corner, unitsAt(event)));
    button.addEventListener("keydown", (event) => {
      const [down, right] = STEPS[event.key] ?? [];
      if (down === undefined) return;
      const [x, y] = send(model.get("state").theta, corner);
      pull(corner, [x + STEP * right, y + STEP * down]);
      event.preventDefault();
    });
  }

  function draw(pixel, { sizes: [height, width], above, place, placeOf }, pixels) {
    const colours = new Float64Array(3 * whole ** 2);
    for (let row = 0; row < height; row++) {
      colours.set(pixels.subarray(3 * row * width, 3 * (row + 1) * width), 3 * ((row + above + margin) * whole + margin));
    }
    paint(canvas, colours);
    const at = (point) => { const [row, column] = place(point); return `${column} ${row + above}`; };
    const ends = ACROSS.flatMap((unit) => [`M${at([unit, -1])}L${at([unit, 1])}`, `M${at([-1, unit])}L${at([1, unit])}`]);
    for (const path of [casing, lines]) path.setAttribute("d", ends.join(""));
    edge.setAttribute("d", `M-0.5 ${above - 0.5}h${width}v${height}h${-width}z`);
    const [row, column] = placeOf(pixel);
    dot.setAttribute("cx", column);
    dot.setAttribute("cy", row + above);
    for (const { corner, button } of handles) {
      const [y, x] = place(corner);
      [button.style.top, button.style.left] = [y + above, x].map((each) => `${(100 * (each + margin + 0.5)) / whole}%`);
    }
  }
  return { element, draw };
}

// What is read, with a frame around one pixel.
function drawnPicture(side, model, choose) {
  const canvas = make("canvas", { width: side, height: side, class: "read" });
  const mark = make("span", { class: "pixel", style: `width: ${100 / side}%; height: ${100 / side}%` });
  const origin = make("span", { class: "origin" });
  const element = make("div", { class: "view picture", role: "application", tabindex: 0 }, canvas, origin, mark);
  element.setAttribute("aria-label", "The picture that is read, with a framed pixel");
  const now = () => lay(model.get("state"), side);
  const at = () => { const [row, column] = model.get("state").pixel; return [row + now().above, column]; };
  const move = ([row, column]) => choose([Math.min(now().sizes[0] - 1, Math.max(0, row - now().above)), column]);
  point(element, { side: () => side, at, move });
  steer(element, { side: () => side, at, move });

  function draw({ sizes: [height, width], above, placeOf }, pixels) {
    const [colours, clear] = [new Float64Array(3 * side ** 2), new Float64Array(side ** 2)];
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const index = (row + above) * side + column;
        colours.set(read(pixels, [height, width], placeOf([row, column])), 3 * index);
        clear[index] = 1;
      }
    }
    paint(canvas, colours, clear);
    [mark.style.top, mark.style.left] = at().map((place) => `${(100 * place) / side}%`);
    origin.style.top = `${(100 * above) / side}%`;
  }
  return { element, draw, at, move };
}

// θ as a matrix.
function drawnMatrix() {
  const numbers = Array.from({ length: 6 }, () => make("span"));
  const element = make("div", { class: "matrix", role: "img" }, ...numbers);
  function draw(theta) {
    const rows = theta.map((row) => row.map((number) => rounded(number, 3)));
    for (const [index, number] of rows.flat().entries()) numbers[index].textContent = number;
    element.setAttribute("aria-label", `θ, with the rows ${rows.map((row) => row.join(", ")).join(" and ")}`);
  }
  return { element, draw };
}

export default {
  render({ model, el }) {
    const { side, pixels } = model.get("data");
    const square = unpack(pixels, Uint8Array, 255);
    const band = square.subarray(square.length / 4, (3 * square.length) / 4);
    const change = changer(model);
    const grid = drawnGrid(side, model, (theta) => change({ theta }));
    const picture = drawnPicture(side, model, (pixel) => change({ pixel }));
    const matrix = drawnMatrix();
    const titled = (element, title, name = "") => make("div", { class: name }, element, make("b", {}, title));
    const map = make(
      "div",
      { class: "panels sampling", role: "group", "aria-label": "A photograph under a grid with five handles, and the picture that is read" },
      titled(grid.element, "the map, and where the reader looks", "broad-panel"),
      titled(picture.element, "what is read there"),
      titled(matrix.element, "θ, from pixel to place"),
    );

    const set = presets("Set θ", Object.keys(POSES), (name) => change({ theta: POSES[name] }));
    const size = switches("Map", { wide: "twice as wide as high" }, (_, wide) => {
      const pixel = picture.at();
      change({ wide });
      picture.move(pixel);
    });
    const functions = { affine_grid: "affine_grid", grid_sample: "grid_sample" };
    const aligned = switches("align_corners=True in", functions, (name, on) => change({ [name]: on }));
    const told = frame(el, TEXTS, [map], make("div", { class: "settings" }, set, size.element, aligned.element));
    told.closest(".play").classList.add("wide");

    redraw(model, () => {
      const state = model.get("state");
      const laid = lay(state, side);
      const pixels = state.wide ? band : square;
      grid.draw(state.pixel, laid, pixels);
      picture.draw(laid, pixels);
      matrix.draw(state.theta);
      size.check(state);
      aligned.check(state);
      told.textContent = say(state.pixel, laid.placeOf);
    });
  },
};
