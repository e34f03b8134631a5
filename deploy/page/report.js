"use strict";
// Hover: a vertical cursor and the values of every line nearest to it.
for (const figure of document.querySelectorAll("figure.chart")) {
  const source = figure.querySelector("script");
  if (!source) continue;
  const data = JSON.parse(source.textContent), svg = figure.querySelector("svg"), plot = figure.querySelector(".plot");
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y1", data.y.end);
  cursor.setAttribute("y2", data.y.start);
  svg.append(cursor);
  const tip = document.createElement("div");
  tip.className = "tip";
  plot.append(tip);
  const scale = data.x.log ? Math.log : (value) => value, unscale = data.x.log ? Math.exp : (value) => value;
  const low = scale(data.x.low), span = scale(data.x.high) - low;
  const toX = (value) => data.x.start + (data.x.end - data.x.start) * (scale(value) - low) / span;
  const text = (value) => Number(value.toPrecision(5)).toLocaleString("en");
  const far = (a, b) => Math.abs(scale(a) - scale(b));
  const nearest = (series, x) => {
    let best = -1;
    series.x.forEach((at, i) => {
      if (series.y[i] !== null && (best < 0 || Math.abs(at - x) < Math.abs(series.x[best] - x))) best = i;
    });
    return best;
  };
  const hide = () => { cursor.style.visibility = "hidden"; tip.style.display = "none"; };
  const show = (event) => {
    const box = svg.getBoundingClientRect();
    const pixel = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const wanted = unscale(low + (pixel - data.x.start) / (data.x.end - data.x.start) * span);
    const reach = span / 20;  // a line that has ended before the cursor has no value there
    const found = data.series.map((series) => ({ series, index: nearest(series, wanted) }));
    const rows = found.filter(({ series, index }) =>
      index >= 0 && far(series.x[index], wanted) <= reach);
    if (!rows.length) return hide();
    const x = rows.reduce((best, row) => {
      const at = row.series.x[row.index];
      return best === null || far(at, wanted) < far(best, wanted) ? at : best;
    }, null);
    tip.replaceChildren();
    const head = document.createElement("div");
    head.textContent = `${data.xLabel} ${text(x)}`;
    tip.append(head);
    for (const { series, index } of rows) {
      const row = document.createElement("div"), key = document.createElement("i");
      key.className = `key ${series.color}`;
      row.append(key, `${series.name} ${text(series.y[index])}`);
      tip.append(row);
    }
    const left = toX(x) / svg.viewBox.baseVal.width;
    cursor.setAttribute("x1", toX(x));
    cursor.setAttribute("x2", toX(x));
    cursor.style.visibility = "visible";
    tip.style.display = "block";
    tip.style.left = left < 0.5 ? `${left * 100 + 2}%` : "auto";
    tip.style.right = left < 0.5 ? "auto" : `${(1 - left) * 100 + 2}%`;
  };
  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointerleave", hide);
}
