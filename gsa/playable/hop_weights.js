// The weights of both hops on a photograph: whom a receiver hears, through which relay, and how much.
import { arrow, changer, choices, frame, key, make, overlay, pixelsOf, point, redraw, steer, svg, unpack, written } from "./shared.js";

const TEXTS = {
  wish: "move the receiver over the photograph, click to make its pixel the sender, and move on. Then look at each hop by itself.",
  find: "hop 1 prefers some pixels; hop 2 takes its patch almost evenly, as an average would that needs no queries and no keys.",
  keys: "With keys: arrows move the receiver, Enter picks the sender. With a finger: tap to move the receiver, tap it again to pick the sender. Pixels are (row, column), counted from (0, 0) at the top left.",
};

export default {
  render({ model, el }) {
    const { side, patch, weights, photograph } = model.get("data");
    const [one, two] = weights.map((packed) => unpack(packed, Uint16Array, 65535));
    const change = changer(model);

    const patchOf = ([row, column]) => Math.floor(row / patch) * (side / patch) + Math.floor(column / patch);
    const placeOf = ([row, column]) => (row % patch) * patch + (column % patch);
    const number = ([row, column]) => row * side + column;
    const meet = (receiver, sender) => receiver.map((x, axis) => x - (x % patch) + (sender[axis] % patch));
    const inHop1 = (pixel, other) => (placeOf(pixel) === placeOf(other) ? one[(number(pixel) * side ** 2) / patch ** 2 + patchOf(other)] : 0);
    const inHop2 = (pixel, other) => (patchOf(pixel) === patchOf(other) ? two[number(pixel) * patch ** 2 + placeOf(other)] : 0);
    const inBoth = (pixel, other) => inHop2(pixel, meet(pixel, other)) * inHop1(meet(pixel, other), other);
    const pixels = pixelsOf(side);

    const photo = overlay(photograph, side);
    const path = svg("g");
    photo.element.append(svg("svg", { viewBox: `0 0 ${side} ${side}`, "aria-hidden": "true" }, path));
    const map = make("div", { class: "map", role: "application", tabindex: 0 }, photo.element);
    map.setAttribute("aria-label", `A photograph under a map of ${side} by ${side} pixels in patches of ${patch} by ${patch}`);
    const hand = {
      side: () => side,
      at: () => model.get("state").receiver,
      move: (receiver) => change({ receiver }),
      pick: () => change({ sender: model.get("state").receiver }),
    };
    point(photo.element, hand);
    steer(map, hand);
    const views = { both: "both hops", one: "hop 1, of the relay", two: "hop 2, of the receiver" };
    const choice = choices("Weights of", views, (shown) => change({ shown }));
    const most = make("p", { class: "keys" });
    const colours = key({ sender: "sender", relay: "relay", receiver: "receiver" });
    const told = frame(el, TEXTS, [map, colours], choice.element, most);

    redraw(model, () => {
      const { receiver, sender, shown } = model.get("state");
      const relay = meet(receiver, sender);
      const both = pixels.map((pixel) => inBoth(receiver, pixel));
      const largest = both.indexOf(Math.max(...both));
      const maps = { both: () => both, one: () => pixels.map((p) => inHop1(relay, p)), two: () => pixels.map((p) => inHop2(receiver, p)) };
      const values = maps[shown]();
      photo.draw(values, { sender, relay, receiver });
      path.replaceChildren(...arrow(sender, relay, side, "1"), ...arrow(relay, receiver, side, "2"));
      choice.check(shown);
      most.textContent = `Darkest: ${Math.max(...values).toFixed(4)}.`;
      told.textContent =
        `${written(receiver)} gives ${written(sender)} the weight ${inBoth(receiver, sender).toFixed(4)}: in hop 2 it gives ` +
        `the relay ${written(relay)} ${inHop2(receiver, relay).toFixed(3)}, and in hop 1 the relay gave ${written(sender)} ` +
        `${inHop1(relay, sender).toFixed(3)}. An even share of all ${side ** 2} pixels would be ${(1 / side ** 2).toFixed(4)}; the ` +
        `largest weight, ${both[largest].toFixed(4)}, is at ${written(pixels[largest])}.`;
    });
  },
};
