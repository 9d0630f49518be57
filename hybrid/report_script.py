"""The page's script. Data never enters it: it reads the embedded JSON and sets text, never markup."""

SCRIPT = r"""
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("series").textContent);
  const chart = document.getElementById("chart"), tip = document.getElementById("tip");
  const legend = document.getElementById("legend"), hidden = new Set();
  let axis = Object.keys(data.axes)[0], colour = 0;
  for (const s of data.series) s.tone = s.kind === "line" ? `s${colour++ % 6}` : s.kind;

  const make = (parent, name, facts = {}, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(facts)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return parent.appendChild(node);
  };
  const html = (parent, name, text) => {
    const node = parent.appendChild(document.createElement(name));
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const short = v => { // 4096 -> 4096, 33554432 -> 34M
    for (const [size, unit] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]])
      if (v >= size) return `${+(v / (unit === "k" ? 1e3 : size)).toPrecision(2)}${unit}`;
    return `${+v.toPrecision(3)}`;
  };
  const mean = values => values.reduce((a, b) => a + b, 0) / values.length;
  const cut = (text, n) => text.length > n ? `${text.slice(0, n - 1)}…` : text;

  const scale = (values, left, right) => { // log-2; a zero stands one octave below the least cost
    const known = values.filter(v => v > 0), zero = values.some(v => v === 0);
    let low = known.length ? Math.log2(Math.min(...known)) : 0;
    let high = known.length ? Math.log2(Math.max(...known)) : 1;
    const nought = low - 1;
    if (zero) low = nought;
    const pad = Math.max((high - low) * .06, .3);
    low -= pad; high += pad;
    const at = v => left + (right - left) * ((v > 0 ? Math.log2(v) : nought) - low) / (high - low);
    const first = zero ? nought + 1 - 1e-9 : low, ticks = zero ? [0] : [];
    const every = Math.max(1, Math.ceil((high - low) * 52 / (right - left)));
    if (2 ** high < 1024) for (let k = Math.ceil(first); k <= high; k += every) ticks.push(2 ** k);
    else { // large numbers read better as 1, 2, 5, 10
      const round = every > 1 ? [1] : [1, 2, 5], tens = Math.floor(first * Math.LOG10E * Math.LN2);
      for (let k = tens; 10 ** k <= 2 ** high; k++) for (const m of round) ticks.push(m * 10 ** k);
      return { at, ticks: ticks.filter(v => v === 0 || (Math.log2(v) >= first && Math.log2(v) <= high)) };
    }
    return { at, ticks };
  };
  const apart = (heights, gap, low, high) => { // rising; moved so that no two are nearer than gap
    const moved = [];
    for (const h of heights) moved.push(Math.max(h, moved.length ? moved[moved.length - 1] + gap : low));
    let ceiling = high;
    for (let i = moved.length - 1; i >= 0; i--) {
      moved[i] = Math.min(moved[i], ceiling);
      ceiling = moved[i] - gap;
    }
    return moved;
  };

  const show = (series, point, node) => {
    tip.replaceChildren();
    html(tip, "b", series.label);
    point.tip.forEach((facts, i) => {
      if (i) html(tip, "hr");
      for (const [name, value] of facts) {
        const line = html(tip, "div");
        html(line, "span", name); html(line, "i", value).style.fontStyle = "normal";
      }
    });
    tip.hidden = false;
    const spot = node.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const page = document.documentElement;
    let x = spot.right + 8, y = spot.top + spot.height / 2 - size.height / 2;
    if (x + size.width > page.clientWidth - 8) x = spot.left - size.width - 8;
    if (x < 8) { x = Math.max(8, (page.clientWidth - size.width) / 2); y = spot.bottom + 8; }
    tip.style.left = `${x + scrollX}px`;
    tip.style.top = `${Math.max(8, y) + scrollY}px`;
  };
  const hide = () => { tip.hidden = true; };
  const hit = (group, series, point, x, y) => {
    const label = [series.label, ...point.tip[0].map(fact => fact.join(" "))].join(", ");
    const facts = { class: "hit", cx: x, cy: y, r: 11, tabindex: 0, role: "img", "aria-label": label };
    const spot = make(group, "circle", facts), tell = () => show(series, point, spot);
    for (const event of ["pointerenter", "focus", "click"]) spot.addEventListener(event, tell);
    for (const event of ["pointerleave", "blur"]) spot.addEventListener(event, hide);
  };

  const mark = (group, series, x, y) => {
    const i = data.series.filter(s => s.kind === series.kind).indexOf(series) % 4;
    // in turn a circle, a square, a diamond, a triangle
    if (i === 0) return make(group, "circle", { class: "dot", cx: x, cy: y, r: 5 });
    const sides = i === 3 ? 3 : 4, turn = i === 1 ? Math.PI / 4 : 0, size = 6.3;
    const corners = Array.from({ length: sides }, (_, k) => {
      const angle = turn - Math.PI / 2 + 2 * Math.PI * k / sides;
      return `${x + size * Math.cos(angle)},${y + size * Math.sin(angle)}`;
    });
    return make(group, "polygon", { class: "dot", points: corners.join(" ") });
  };

  const draw = () => {
    hide(); chart.replaceChildren();
    const width = chart.clientWidth, narrow = width < 560, height = narrow ? 330 : 430;
    const unit = axis === "seconds_per_example" ? 1000 : 1;
    const box = { left: 44, right: width - (narrow ? 96 : 150), top: 14, bottom: height - 44 };
    const svg = make(chart, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "group" });
    const shown = data.series.filter(s => !hidden.has(s));
    const isLevel = s => s.kind === "level" || s.points.every(p => p.at[axis] === null);
    const cost = p => p.at[axis] * unit;
    const curves = shown.filter(s => !isLevel(s)); // baselines last, over the lines
    const all = curves.flatMap(s => s.points).filter(p => p.at[axis] !== null).map(cost);
    const { at, ticks } = scale(all, box.left, box.right);
    const up = v => box.bottom - (box.bottom - box.top) * (v + .03) / 1.09;
    for (const y of [0, .2, .4, .6, .8, 1]) {
      make(svg, "line", { class: "grid", x1: box.left, x2: box.right, y1: up(y), y2: up(y) });
      make(svg, "text", { x: box.left - 8, y: up(y) + 4.5, "text-anchor": "end" }, `${Math.round(100 * y)}%`);
    }
    for (const v of all.length ? ticks : []) {
      make(svg, "line", { class: "grid", x1: at(v), x2: at(v), y1: box.top, y2: box.bottom });
      make(svg, "text", { x: at(v), y: box.bottom + 19, "text-anchor": "middle" }, short(v));
    }
    make(svg, "line", { class: "base", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom });
    const middle = { class: "name", x: (box.left + box.right) / 2, y: height - 4, "text-anchor": "middle" };
    make(svg, "text", middle, `${data.axes[axis]} (log scale)`);

    const levels = shown.filter(isLevel).map(s => ({ s, share: mean(s.points.map(p => p.accuracy)) }));
    levels.sort((a, b) => b.share - a.share);
    for (const level of levels) level.y = up(level.share);
    const names = apart(levels.map(l => l.y), 16, box.top, box.bottom);
    levels.forEach(({ s, share, y }, i) => {
      const group = make(svg, "g", { class: s.kind === "point" ? "level" : s.tone });
      make(group, "line", { class: "curve", x1: box.left, x2: box.right, y1: y, y2: y });
      make(group, "line", { class: "lead", x1: box.right, x2: box.right + 8, y1: y, y2: names[i] });
      const text = narrow ? cut(s.label, 12) : `${cut(s.label, 20)} ${(100 * share).toFixed(1)}%`;
      make(group, "text", { x: box.right + 11, y: names[i] + 4.5 }, text);
      hit(group, s, s.points[0], box.right, y);
    });

    const spots = [], labels = [], taken = [];
    for (const s of curves.sort((a, b) => (a.kind === "point") - (b.kind === "point"))) {
      const group = make(svg, "g", { class: s.tone });
      const points = s.points.filter(p => p.at[axis] !== null);
      const xy = points.map(p => [at(cost(p)), up(p.accuracy)]);
      if (s.kind === "line") {
        const edge = [...points.map(p => [at(cost(p)), up(p.high)]),
          ...points.map(p => [at(cost(p)), up(p.low)]).reverse()];
        make(group, "polygon", { class: "band", points: edge.map(e => e.join(",")).join(" ") });
      } else for (const p of points) {
        const x = at(cost(p));
        make(group, "line", { class: "whisker", x1: x, x2: x, y1: up(p.high), y2: up(p.low) });
      }
      make(group, "polyline", { class: "curve", points: xy.map(e => e.join(",")).join(" ") });
      points.forEach((p, i) => { mark(group, s, ...xy[i]); spots.push([group, s, p, ...xy[i]]); });
      for (let i = 0; i < xy.length; i++) for (let k = 0; k < 20; k++) { // the curve, for labels to avoid
        const [a, b] = [xy[i], xy[i + 1] || xy[i]];
        taken.push([a[0] + (b[0] - a[0]) * k / 20, a[1] + (b[1] - a[1]) * k / 20]);
      }
      if (s.kind === "point") labels.push([s, ...xy[xy.length - 1]]);
    }
    const placed = [], round = [[1, 0], [-1, 0], [0, -1], [0, 1]];
    for (const dx of [.8, -.8]) round.push([dx, -.8], [dx, .8]);
    for (const [s, x, y] of labels) {
      const text = make(svg, "text", { class: "name" }, cut(s.label, 26)), w = text.getBBox().width, h = 15;
      let best = null;
      for (const r of [10, 20, 32, 46]) for (const [dx, dy] of round) {
        const left = dx > 0 ? x + r * dx : dx < 0 ? x + r * dx - w : x - w / 2, right = left + w;
        const top = y + r * dy - h / 2 + dy * h / 2, bottom = top + h;
        const far = (u, v) => Math.hypot(Math.max(left - u, 0, u - right), Math.max(top - v, 0, v - bottom));
        const meets = b => left < b.right + 3 && b.left < right + 3 && top < b.bottom && b.top < bottom;
        const inside = left >= box.left && right <= box.right + 4 && top >= 0 && bottom <= box.bottom;
        const price = 1000 * !inside + 100 * placed.filter(meets).length
          + taken.filter(t => far(...t) < 3).length + 4 * levels.filter(l => l.y > top && l.y < bottom).length
          + 3 * labels.some(([, u, v]) => far(u, v) < far(x, y));
        if (!best || price < best.price) best = { price, left, top, right, bottom };
      }
      placed.push(best);
      text.setAttribute("x", best.left); text.setAttribute("y", best.top + 12);
    }
    for (const spot of spots) hit(...spot);
  };

  for (const s of data.series) {
    const button = html(legend, "button");
    button.type = "button"; button.className = s.tone; button.setAttribute("aria-pressed", "true");
    const key = make(button, "svg", { viewBox: "0 0 24 12", "aria-hidden": "true" });
    make(key, "line", { class: s.kind === "point" ? "" : "curve", x1: 0, x2: 24, y1: 6, y2: 6 });
    if (s.kind !== "level") mark(key, s, 12, 6);
    html(button, "span", s.label);
    button.addEventListener("click", () => {
      if (!hidden.delete(s)) hidden.add(s);
      button.setAttribute("aria-pressed", String(!hidden.has(s)));
      draw();
    });
  }
  const switches = [...document.querySelectorAll("[data-axis]")];
  for (const button of switches) button.addEventListener("click", () => {
    axis = button.dataset.axis;
    for (const other of switches) other.setAttribute("aria-pressed", String(other === button));
    draw();
  });
  new ResizeObserver(draw).observe(chart);
  addEventListener("keydown", event => { if (event.key === "Escape") hide(); });

  const heads = [...document.querySelectorAll("#rows th")], body = document.querySelector("#rows tbody");
  const value = (row, i) => {
    const cell = row.cells[i];
    if (cell.dataset.value !== undefined) return +cell.dataset.value;
    return cell.textContent === "–" ? null : cell.textContent;
  };
  heads.forEach((head, i) => head.firstChild.addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    body.append(...[...body.rows].sort((p, q) => {
      const [a, b] = [value(p, i), value(q, i)];
      if (a === null || b === null) return (a === null) - (b === null); // empty cells last, either way
      const numbers = typeof a === "number" && typeof b === "number";
      return sign * (numbers ? a - b : String(a).localeCompare(String(b)));
    }));
  }));
})();
"""
