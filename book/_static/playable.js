// Starts the figures of gsa.playable, each with a model made of the numbers that stand in it: here is no kernel.
class Model {
  listeners = [];
  constructor(values) { this.values = values; }
  get(name) { return this.values[name]; }
  set(name, value) {
    this.values[name] = value;
    for (const [event, listener] of this.listeners) if (event === `change:${name}`) listener();
  }
  save_changes() {}
  on(event, listener) { this.listeners.push([event, listener]); }
}

for (const figure of document.querySelectorAll(".playable")) {
  const { default: module } = await import(`./${figure.dataset.module}.js`);
  const el = document.createElement("div");
  await module.render({ model: new Model(JSON.parse(figure.querySelector("script").textContent)), el });
  figure.append(el);
  figure.classList.add("live");
}
