// The lottery of seeds: a thousand studies of one truth, what they report, and the runs of one of them.
import { STEPS, changer, choices, count, frame, key, make, redraw, slider, sum, svg } from "./shared.js";

const TEXTS = {
  wish: "leave the truth at zero and count the false stars, then look after each seed, or take twenty candidates; give the truth 0.2 points, and take two seeds, then twenty. Point at a dot to see the runs of its study.",
  find: "whether t keeps its promise, one false star in twenty studies; which rules break it, and which of these Dunnett's d mends; and with how many seeds the stars exaggerate most.",
  keys: "With keys: arrows move from dot to dot. With a finger: tap a dot or draw. All settings share the same draws until you ask for others; dots at either end may lie beyond it.",
};
const [LEFT, RIGHT, TOP] = [-0.9, 1.1, 0.7];
const COLUMNS = Array.from({ length: 45 }, (_, index) => 48 + 8 * index);
const [STUDIES, ARMS, SEEDS] = [1000, 21, 20];
const REACHES = { z: "1.96", t: "Student's t", d: "Dunnett's d, for all candidates" };
const LOOKS = { false: "once, at the last seed", true: "after each seed, until a star" };

// Normal draws of one arm, seed by seed: Box and Muller of the counters of mulberry32, as Python draws them.
const drawn = {};
function normals(draw, arm) {
  const uniform = (counter) => {
    let bits = Math.imul(counter, 0x6d2b79f5);
    bits = Math.imul(bits ^ (bits >>> 15), bits | 1);
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
    return (((bits ^ (bits >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  const size = SEEDS * STUDIES;
  const start = (draw * ARMS + arm) * size;
  drawn[[draw, arm]] ??= Float64Array.from({ length: size }, (_, index) => {
    const counter = 2 * (start + index) + 1;
    return Math.sqrt(-2 * Math.log(uniform(counter))) * Math.cos(2 * Math.PI * uniform(counter + 1));
  });
  return drawn[[draw, arm]];
}

// What each study reports of the candidate that is farthest from the control.
function simulate({ difference, sigma, seeds, candidates, reach, peek, draw }, reaches) {
  const arms = Array.from({ length: candidates + 1 }, (_, arm) => normals(draw, arm));
  const quantiles = reaches[reach][candidates];
  function report(study) {
    const totals = new Float64Array(arms.length);
    let squares = 0;
    for (let n = 1; ; n++) {
      for (const [arm, draws] of arms.entries()) {
        const value = draws[(n - 1) * STUDIES + study];
        totals[arm] += value;
        squares += value ** 2;
      }
      if (n < 2 || (!peek && n < seeds)) continue;
      const variance = (squares - totals.reduce((all, total) => all + total ** 2, 0) / n) / (arms.length * (n - 1));
      const found = { difference: 0, reach: quantiles[n - 2] * sigma * Math.sqrt((2 * variance) / n), seeds: n };
      for (let candidate = 1; candidate < arms.length; candidate++) {
        const apart = difference + (sigma * (totals[candidate] - totals[0])) / n;
        if (Math.abs(apart) > Math.abs(found.difference)) Object.assign(found, { candidate, difference: apart });
      }
      found.star = Math.abs(found.difference) > found.reach;
      if (found.star || n === seeds) return found;
    }
  }
  return Array.from({ length: STUDIES }, (_, study) => report(study));
}

// Columns of studies, stars below the others, with dots as large as fit: where each column lies, and who is in it.
function stack(found) {
  for (const columns of COLUMNS) {
    const wide = (RIGHT - LEFT) / columns;
    const stacks = Array.from({ length: columns }, (_, column) => ({ x: LEFT + (column + 0.5) * wide, studies: [] }));
    for (const [study, { difference }] of found.entries()) {
      stacks[Math.min(columns - 1, Math.max(0, Math.floor((difference - LEFT) / wide)))].studies.push(study);
    }
    if (columns < COLUMNS.at(-1) && stacks.some(({ studies }) => studies.length * wide > TOP)) continue;
    const order = (one, other) => found[other].star - found[one].star || found[one].difference - found[other].difference;
    for (const { studies } of stacks) studies.sort(order);
    return { wide, stacks: stacks.filter(({ studies }) => studies.length) };
  }
}

const kind = ({ star, difference }, truth) => (star ? (truth * difference > 0 ? "star" : "false") : "none");
const points = (value) => value.toFixed(2).replace("-", "−");
const signed = (value) => (value < 0 ? "" : "+") + points(value);
const mean = (values) => sum(values) / values.length;
const sizeOfStars = (found) => mean(found.filter(({ star }) => star).map(({ difference }) => Math.abs(difference)));
const dots = (places) => places.map(([x, y]) => `M${100 * x} ${-100 * y}h0`).join("");

function say({ difference, candidates, peek, study }, found) {
  const who = candidates > 1 ? `All ${candidates} candidates are` : "The candidate is";
  const stars = found.filter(({ star }) => star);
  const right = stars.filter((report) => report.difference > 0).length;
  const [size, all] = [sizeOfStars(found), count(STUDIES)];
  const told = difference
    ? `${who} ${points(difference)} points better. ${all} studies: ${right} with a star of the ` +
      `right sign, ${stars.length - right} with one of the wrong sign, ${STUDIES - stars.length} without. What is found is ${(size / difference).toFixed(1)} times too large on average. `
    : `${who} as good as the control. Of ${all} studies ${stars.length} find a difference all the same: false stars, ` +
      `${points(size)} points from the truth on average. `;
  const taken = peek ? `A study takes ${mean(found.map(({ seeds }) => seeds)).toFixed(1)} seeds an arm on average. ` : "";
  const marked = found[study];
  const ends = [marked.difference, marked.difference - marked.reach, marked.difference + marked.reach].map(signed);
  const star = marked.star ? "a star" : "no star";
  return `${told}${taken}The marked study reports ${ends[0]} points, from ${ends[1]} to ${ends[2]}: ${star}.`;
}

// Of a study: its runs of the control and of the candidate that it reports, their means, and its interval.
function shapesOfStudy({ draw, difference, sigma, study }, { candidate, seeds, ...marked }) {
  const arms = [0, candidate].map((arm) => {
    const draws = normals(draw, arm);
    return Array.from({ length: seeds }, (_, seed) => (arm && difference) + sigma * draws[seed * STUDIES + study]);
  });
  return {
    runs: dots(arms.flatMap((runs, arm) => runs.map((run) => [run, -0.15 * (arm + 1)]))),
    means: arms.map((runs, arm) => `M${100 * mean(runs)} ${15 * arm + 10}v10`).join(""),
    interval: `M${100 * (marked.difference - marked.reach)} 45H${100 * (marked.difference + marked.reach)}`,
    middle: dots([[marked.difference, -0.45]]),
  };
}

// The studies as dots over what they report; below, on the same axis, the one that is marked. Lengths are hundredths of
// a point.
function drawnStudies(mark) {
  const names = ["axis", "zero", "truth", "none", "star", "false", "mean", "halo", "marked", "runs", "means", "interval", "middle"];
  const layers = Object.fromEntries(names.map((name) => [name, svg("path", { class: name })]));
  const text = (words, x, y, name = "") => svg("text", { x, y, class: name, "font-size": 6.6, "stroke-width": 2 }, words);
  const rows = ["control", "candidate", "difference"].map((name, row) => text(name, 100 * LEFT, 15 * (row + 1), "first"));
  const ticks = [-50, 0, 50].map((tick) => text(points(tick / 100), tick, 67));
  const labels = { truth: text("truth", 0, -86), mean: text("", 0, -75, "first mean") };
  const texts = [...rows, ...ticks, text("difference (points)", 50 * (LEFT + RIGHT), 76), ...Object.values(labels)];
  const [left, top, width] = [100 * LEFT, -92, 100 * (RIGHT - LEFT)];
  const picture = svg("svg", { "aria-hidden": "true", viewBox: `${left} ${top} ${width} 172` }, ...Object.values(layers), ...texts);
  const element = make("div", { class: "map dots", role: "application", tabindex: 0 }, picture);
  element.setAttribute("aria-label", "A thousand studies, each a dot over the difference that it reports");
  layers.axis.setAttribute("d", `M${left} 60h${width}M-50 60v2M0 60v2M50 60v2`);
  layers.zero.setAttribute("d", "M0 -80V60");
  let shown;

  const go = (column, level) => {
    const { studies } = shown.stacks[Math.min(shown.stacks.length - 1, Math.max(0, column))];
    mark(studies[Math.min(studies.length - 1, Math.max(0, level))]);
  };
  const point = ({ clientX, clientY }) => {
    const box = picture.getBoundingClientRect();
    const [x, y] = [left + ((clientX - box.left) * width) / box.width, top + ((clientY - box.top) * width) / box.width];
    const away = shown.stacks.map((column) => Math.abs(100 * column.x - x));
    go(away.indexOf(Math.min(...away)), Math.floor(-y / (100 * shown.wide)));
  };
  element.addEventListener("pointermove", (event) => (event.pointerType === "mouse" || event.buttons) && point(event));
  element.addEventListener("pointerdown", point);
  element.addEventListener("keydown", (event) => {
    const [up, right] = STEPS[event.key] ?? [];
    if (up === undefined) return;
    go(shown.column + right, shown.level - up);
    event.preventDefault();
  });

  function draw(state, found) {
    const { difference, study } = state;
    const { wide, stacks } = stack(found);
    const column = stacks.findIndex(({ studies }) => studies.includes(study));
    const level = stacks[column].studies.indexOf(study);
    shown = { wide, stacks, column, level };
    const places = { none: [], star: [], false: [] };
    for (const { x, studies } of stacks) {
      for (const [height, each] of studies.entries()) places[kind(found[each], difference)].push([x, (height + 0.5) * wide]);
    }
    places.halo = places.marked = [[stacks[column].x, (level + 0.5) * wide]];
    for (const [name, where] of Object.entries(places)) {
      layers[name].setAttribute("d", dots(where));
      layers[name].setAttribute("stroke-width", 85 * wide + ({ halo: 4, marked: 1.5 }[name] ?? 0));
    }
    const average = 100 * sizeOfStars(found);
    const lines = { truth: `M${100 * difference} -80V60`, mean: difference ? `M${average} -72V0` : "" };
    for (const [name, shape] of Object.entries({ ...lines, ...shapesOfStudy(state, found[study]) })) {
      layers[name].setAttribute("d", shape);
    }
    for (const name of ["marked", "interval", "middle"]) layers[name].dataset.kind = kind(found[study], difference);
    labels.truth.setAttribute("x", 100 * difference);
    labels.mean.textContent = difference ? "mean of the stars" : "";
    labels.mean.setAttribute("x", Math.min(average + 2, 100 * RIGHT - 62));
  }
  return { element, draw };
}

export default {
  render({ model, el }) {
    const { reaches } = model.get("data");
    const change = changer(model);
    const range = (from, to, scale = 1) => Array.from({ length: to - from + 1 }, (_, index) => (from + index) / scale);
    const sliders = {
      difference: ["Truth δ", range(0, 6, 20), points],
      sigma: ["Spread σ", range(2, 4, 20), points],
      seeds: ["Seeds n", range(2, SEEDS), String],
      candidates: ["Candidates", Object.keys(reaches.t).map(Number), String],
    };
    for (const [part, [name, values, write]] of Object.entries(sliders)) {
      sliders[part] = slider(name, values, write, (value) => change({ [part]: value }));
    }
    const look = choices("A study looks", LOOKS, (value) => change({ peek: value === "true" }));
    const reach = choices("Interval, in standard errors", REACHES, (value) => change({ reach: value }));
    const again = make("button", { type: "button" }, "Draw another thousand");
    again.addEventListener("click", () => change({ draw: model.get("state").draw + 1 }));

    const picture = drawnStudies((study) => study !== model.get("state").study && change({ study }));
    const told = frame(
      el,
      TEXTS,
      [picture.element, key({ star: "star", false: "false star", none: "no star" })],
      make("div", { class: "sliders" }, ...Object.values(sliders).map(({ element }) => element)),
      look.element,
      reach.element,
      again,
    );

    let [found, law] = [];
    redraw(model, () => {
      const state = model.get("state");
      const now = JSON.stringify({ ...state, study: 0 });
      if (now !== law) [found, law] = [simulate(state, reaches), now];
      picture.draw(state, found);
      for (const [part, { show }] of Object.entries(sliders)) show(state[part]);
      look.check(state.peek);
      reach.check(state.reach);
      told.textContent = say(state, found);
    });
  },
};
