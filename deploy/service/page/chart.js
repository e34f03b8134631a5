// A small line chart that follows its data: means as a line, least and greatest as a band. Drawn anew at every width, so that its
// text is as large on a phone as elsewhere. Pointer, finger and arrow keys read values off it.

import { s, h } from "./dom.js";
import { duration, number, si } from "./words.js";

const HEIGHT = 190, TOP = 8, BOTTOM = 24, RIGHT = 12;
const LOG_RATIO = 50;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];

export class Chart {
  // options: title, color ("c0"…), text (of a value), fromZero, logRatio (a positive range so wide gets a logarithmic axis)
  constructor(options) {
    this.options = { text: number, fromZero: false, logRatio: LOG_RATIO, ...options };
    this.value = h("output", { class: "value" });
    this.plot = s("svg", { class: "lines", height: HEIGHT, tabindex: 0, role: "img" });
    this.element = h("figure", { class: `chart ${options.color}` },
      h("figcaption", {}, h("span", {}, options.title), this.value), this.plot);
    this.data = null;
    this.picked = null;
    new ResizeObserver(() => this.draw()).observe(this.element);
    const pick = (event) => this.pickAt(event.clientX - this.plot.getBoundingClientRect().left);
    this.plot.addEventListener("pointermove", pick);
    this.plot.addEventListener("pointerdown", pick);
    this.plot.addEventListener("pointerleave", () => this.pick(null));
    this.plot.addEventListener("blur", () => this.pick(null));
    this.plot.addEventListener("keydown", (event) => this.key(event));
  }

  // data: x, mean, low, high (lists), end (of the x axis), isTime, marks ([{x, text}])
  update(data) {
    const kept = data.mean.map((value, index) => index).filter((index) => data.mean[index] !== null);
    const of = (list) => list && kept.map((index) => list[index]);
    this.data = { ...data, x: of(data.x), mean: of(data.mean), low: of(data.low), high: of(data.high) };
    this.picked = null;
    this.draw();
  }

  key(event) {
    const last = (this.data?.x.length ?? 0) - 1;
    const at = this.picked ?? last;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.pick(Math.min(last, Math.max(0, to)));
  }

  pickAt(pixel) {
    if (!this.axes) return;
    const wanted = this.axes.x.back(pixel);
    let best = null;
    this.data.x.forEach((x, index) => {
      if (best === null || Math.abs(x - wanted) < Math.abs(this.data.x[best] - wanted)) best = index;
    });
    this.pick(best);
  }

  pick(index) {
    this.picked = index;
    this.say();
    if (!this.cursor) return;
    this.cursor.setAttribute("visibility", index === null ? "hidden" : "visible");
    if (index === null) return;
    const [x, y] = [this.axes.x.at(this.data.x[index]), this.axes.y.at(this.data.mean[index])];
    this.cursor.setAttribute("transform", `translate(${x.toFixed(1)} 0)`);
    this.cursor.lastChild.setAttribute("cy", y);
  }

  say() {
    const { x, mean, low, high, isTime } = this.data ?? { x: [] };
    const text = this.options.text;
    if (!x.length) {
      this.value.textContent = "";
    } else if (this.picked === null) {
      this.value.textContent = text(mean.at(-1));
    } else {
      const index = this.picked, band = low && low[index] !== high[index] ? ` (${text(low[index])} to ${text(high[index])})` : "";
      this.value.textContent = `${text(mean[index])}${band} at ${isTime ? duration(x[index]) : si(x[index])}`;
    }
  }

  draw() {
    const width = this.plot.clientWidth || this.element.clientWidth - 24;
    if (!this.data || width <= 0) return;
    const { x, mean, low, high, end, isTime, marks } = this.data;
    this.plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.axes = this.cursor = null;
    if (!x.length) {
      this.plot.replaceChildren(s("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "no values yet"));
      this.plot.setAttribute("aria-label", `${this.options.title}: no values yet`);
      return this.say();
    }
    const yAxis = valueAxis(least(low ?? mean), greatest(high ?? mean), this.options.fromZero, this.options.logRatio);
    const ticks = yAxis.ticks.map((tick) => [tick, si(tick)]);
    const left = Math.max(44, 10 + 7 * Math.max(...ticks.map(([, text]) => text.length))); // charts beside each other begin alike
    const xAxis = axis(Math.min(0, x[0]), Math.max(end ?? 0, greatest(x), x[0] + 1e-9), left, width - RIGHT, false);
    yAxis.place(HEIGHT - BOTTOM, TOP);
    this.axes = { x: xAxis, y: yAxis };
    const parts = [];
    for (const [tick, text] of ticks) {
      const y = yAxis.at(tick).toFixed(1);
      parts.push(s("line", { class: "grid", x1: left, x2: width - RIGHT, y1: y, y2: y }));
      parts.push(s("text", { x: left - 6, y: Number(y) + 4, "text-anchor": "end" }, text));
    }
    const most = Math.max(2, Math.floor((width - left) / 64));
    for (const tick of isTime ? timeTicks(xAxis.low, xAxis.high, most) : linearTicks(xAxis.low, xAxis.high, most)) {
      const at = xAxis.at(tick), text = isTime ? duration(tick) : si(tick);
      const anchor = at < left + 12 ? "start" : at > width - RIGHT - 3.5 * text.length ? "end" : "middle";
      parts.push(s("text", { x: at, y: HEIGHT - 7, "text-anchor": anchor }, text));
    }
    parts.push(s("line", { class: "axis", x1: left, x2: width - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
    for (const mark of marks ?? []) {
      const at = xAxis.at(mark.x).toFixed(1);
      parts.push(s("line", { class: "mark-line", x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM }, s("title", {}, mark.text)));
    }
    if (low) parts.push(s("path", { class: "band", d: band(x, low, high, xAxis, yAxis) }));
    parts.push(s("path", { class: "line", d: path(x, mean, xAxis, yAxis) }));
    if (x.length <= 30) x.forEach((at, index) => parts.push(s("circle", { class: "mark", cx: xAxis.at(at), cy: yAxis.at(mean[index]), r: 2.5 })));
    this.cursor = s("g", { visibility: "hidden" },
      s("line", { class: "cursor-line", y1: TOP, y2: HEIGHT - BOTTOM }), s("circle", { class: "mark", r: 4, cx: 0 }));
    this.plot.replaceChildren(...parts, this.cursor);
    this.plot.setAttribute("aria-label", `${this.options.title}: from ${this.options.text(mean[0])} to ${this.options.text(mean.at(-1))}; arrow keys read values`);
    this.pick(this.picked);
  }
}

// A curve without axes, for a row of a list.
export function sparkline(values, name) {
  const width = 96, height = 26, low = least(values), high = greatest(values);
  const log = low > 0 && high / low >= 10;
  const y = axis(low, high > low ? high : low + 1, height - 3, 3, log), x = axis(0, Math.max(1, values.length - 1), 2, width - 4, false);
  const end = values.length - 1;
  return s("svg", { class: "spark c0", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": name },
    s("path", { class: "line", d: path(values.map((_, index) => index), values, x, y) }),
    s("circle", { class: "mark", cx: x.at(end), cy: y.at(values[end]), r: 2.5 }));
}

const least = (values) => values.reduce((best, value) => (value < best ? value : best), Infinity);
const greatest = (values) => values.reduce((best, value) => (value > best ? value : best), -Infinity);

function axis(low, high, start, end, log) {
  const scale = log ? Math.log : (value) => value, unscale = log ? Math.exp : (value) => value;
  const made = {
    low, high, log,
    place(from, to) { start = from; end = to; },
    at: (value) => start + (end - start) * (scale(value) - scale(low)) / (scale(high) - scale(low)),
    back: (pixel) => unscale(scale(low) + (pixel - start) / (end - start) * (scale(high) - scale(low))),
  };
  return made;
}

function valueAxis(low, high, fromZero, logRatio) {
  if (fromZero) low = Math.min(0, low);
  if (!fromZero && low > 0 && high / low >= logRatio) {
    const made = axis(low / 1.15, high * 1.15, 0, 0, true);
    made.ticks = logTicks(made.low, made.high);
    return made;
  }
  if (high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high))) {
    const room = Math.abs(low) * 0.1 || 1;
    [low, high] = fromZero ? [Math.min(0, low), Math.max(high * 1.25, 1)] : [low - room, high + room];
  }
  const ticks = linearTicks(low, high, 4), step = ticks.length > 1 ? ticks[1] - ticks[0] : high - low;
  const made = axis(Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step, 0, 0, false);
  made.ticks = linearTicks(made.low, made.high, 4);
  return made;
}

function linearTicks(low, high, most) {
  const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
  return multiples(low, high, step);
}

function timeTicks(low, high, most) {
  const raw = (high - low) / most, step = raw < 1 ? null : STEPS.find((candidate) => candidate >= raw);
  return step ? multiples(low, high, step) : linearTicks(low, high, most);
}

function multiples(low, high, step) {
  const ticks = [];
  for (let index = Math.ceil(low / step - 1e-9); index <= Math.floor(high / step + 1e-9); index += 1) ticks.push(Number((index * step).toPrecision(12)));
  return ticks.length ? ticks : [low];
}

function logTicks(low, high) {
  const decades = Math.log10(high / low), factors = decades <= 2.5 ? [1, 2, 5] : [1], every = Math.max(1, Math.ceil(decades / 5)), ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const factor of power % every ? [] : factors) ticks.push(factor * 10 ** power);
  }
  return ticks.filter((tick) => tick >= low && tick <= high);
}

const point = (x, y, xAxis, yAxis) => `${xAxis.at(x).toFixed(1)} ${yAxis.at(y).toFixed(1)}`;

const path = (x, y, xAxis, yAxis) => x.map((at, index) => `${index ? "L" : "M"}${point(at, y[index], xAxis, yAxis)}`).join("");

function band(x, low, high, xAxis, yAxis) {
  const forth = x.map((at, index) => point(at, high[index], xAxis, yAxis));
  const back = x.map((at, index) => point(at, low[index], xAxis, yAxis)).reverse();
  return `M${[...forth, ...back].join("L")}Z`;
}
