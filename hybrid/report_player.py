"""Script and style of the page that plays traces. Data never enters them: the script reads the embedded JSON and
sets text, never markup."""

PLAYER_STYLE = """
[hidden] { display: none !important; }
.text { font: 1rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.player { border: 1px solid var(--rule); border-radius: 10px; padding: 16px 18px; }
.player .part { display: grid; grid-template-columns: 5.2em 1fr; gap: 0 10px; margin: 2px 0; }
.player .part span { color: var(--muted); } .player .part b { font-weight: 400; white-space: pre-wrap;
  overflow-wrap: anywhere; }
#canvas { display: flex; flex-wrap: wrap; gap: 6px 5px; margin: 14px 0 6px; }
.cell { position: relative; width: calc(var(--wide) * 1ch + 22px); min-width: 36px; height: 46px; border: 1px solid
  var(--rule); border-radius: 6px; display: flex; align-items: center; justify-content: center; overflow: hidden; }
.cell b { font-weight: 400; position: relative; white-space: pre; max-width: 100%; overflow: hidden;
  text-overflow: ellipsis; }
.cell i { position: absolute; left: 0; right: 0; bottom: 0; background: rgba(var(--heat), .2); }
.cell small, .cell sup { position: absolute; font: 10px/1 system-ui, sans-serif; color: var(--muted); }
.cell small { right: 3px; bottom: 3px; } .cell sup { left: 3px; top: 3px; font-weight: 700; color: inherit; }
.cell del { position: absolute; left: 3px; top: 2px; font-size: 10px; line-height: 1; color: var(--muted); }
.open b { visibility: hidden; }
.open, .reopened { border-style: dashed; background: repeating-linear-gradient(135deg, var(--grid) 0 4px,
  transparent 4px 8px); }
.committed { border: 2px solid var(--s2); color: var(--s2); } .committed b { font-weight: 700; }
.reopened { border: 2px dotted var(--s3); color: var(--s3); } .reopened b { visibility: hidden; }
.edited { border: 4px double var(--s1); color: var(--s1); } .edited b { font-weight: 700; }
.closed, .pad { border-color: transparent; color: var(--muted); }
.given { border-left: 4px solid var(--muted); }
.final .cell { border: 1px solid var(--accent); border-bottom-width: 4px; color: var(--ink); }
.final .cell.pad { border-color: transparent; }
#said { min-height: 1.5em; margin: 4px 0 12px; color: var(--muted); font-size: .875rem; }
.keys { margin-bottom: 12px; display: flex; flex-wrap: wrap; align-items: center; gap: 10px; }
.keys input { flex: 1 1 200px; min-width: 120px; accent-color: var(--accent); }
.keys output { font-variant-numeric: tabular-nums; font-size: .875rem; color: var(--muted); min-width: 7.5em; }
.axes button { min-width: 2.4em; } .axes button:hover { color: var(--ink); }
#play { color: var(--ink); min-width: 5.2em; }
.legend .cell { width: 32px; min-width: 32px; height: 24px; font-size: 13px; }
.legend .cell sup { font-size: 8px; left: 2px; top: 1px; } .legend span { display: inline-flex; gap: 7px;
  align-items: center; }
#states { border-spacing: 2px; border-collapse: separate; }
#states th { font-weight: 400; color: var(--muted); text-align: right; padding: 0 8px; white-space: nowrap;
  position: sticky; left: 0; background: var(--ground); z-index: 1; }
#states th button:hover { color: var(--ink); } #states tr[aria-current] th { color: var(--ink); font-weight: 600; }
#states td { min-width: 24px; height: 24px; padding: 0 4px; text-align: center; border: 1px solid transparent;
  border-radius: 4px; white-space: pre; background-clip: padding-box; }
#states .committed { border: 2px solid var(--s2); } #states .edited { border: 3px double var(--s1); }
#states .reopened { border: 2px dotted var(--s3); } #states .open { color: transparent;
  border: 1px dashed var(--rule); }
#states .reopened { color: transparent; } #states .given { border-left: 3px solid var(--muted); }
details { border-bottom: 1px solid var(--grid); padding: 6px 0; } summary { cursor: pointer; overflow-wrap: anywhere; }
#rows button[aria-pressed=true] { font-weight: 700; color: var(--accent); } #rows td { white-space: pre-wrap; }
#rows td button { text-align: left; }
"""

PLAYER = r"""
"use strict";
(() => {
  const { traces } = JSON.parse(document.getElementById("trace").textContent);
  const glyphs = JSON.parse(document.getElementById("glyphs").textContent);
  const get = id => document.getElementById(id);
  const canvas = get("canvas"), slider = get("at"), play = get("play"), table = get("states");
  const signs = { committed: "+", reopened: "↺" }, most = 20000;
  let which = 0, at = 0, timer = null, pace = 500;

  const make = (parent, name, kind, text) => {
    const node = parent.appendChild(document.createElement(name));
    if (kind) node.className = kind;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const states = () => traces[which].states;
  const glyph = token => glyphs[which][token];
  const isLast = () => at === states().length - 1;
  const percent = p => `${Math.round(100 * p)}%`;
  const kind = (state, i) => {
    const pad = state.tokens[i] === traces[which].special.pad;
    return state.happened[i] + (pad && state.happened[i] === "held" ? " pad" : "");
  };
  const told = (state, i) => { // one position in words
    const what = { open: "masked", reopened: "reopened", held: "kept" }[state.happened[i]] || state.happened[i];
    const p = state.confidence[i], text = state.happened[i] === "open" ? "" : `${glyph(state.tokens[i])}, `;
    return `position ${i + 1}: ${text}${what}${p === null ? "" : `, drawn with probability ${p.toPrecision(3)}`}`;
  };
  const said = state => {
    const mask = traces[which].special.mask, parts = [];
    for (const event of ["committed", "reopened", "edited", "closed"]) {
      const n = state.happened.filter(e => e === event).length;
      if (n) parts.push(`${n} ${event}`);
    }
    parts.push(`${state.tokens.filter(t => t === mask).length} masked`);
    const drawn = state.confidence.filter((p, i) => p !== null && state.happened[i] === "committed");
    if (drawn.length) parts.push(`least confidence ${percent(Math.min(...drawn))}`);
    return parts.join(" · ") + (isLast() ? " · final: this the decoder reads" : "");
  };

  const show = () => {
    const state = states()[at], trace = traces[which];
    canvas.replaceChildren();
    canvas.className = isLast() ? "text final" : "text";
    const widest = Math.max(...Object.values(glyphs[which]).map(g => [...g].length));
    canvas.style.setProperty("--wide", Math.min(widest, 12));
    state.tokens.forEach((token, i) => {
      const cell = make(canvas, "div", `cell ${kind(state, i)}`), p = state.confidence[i];
      cell.title = told(state, i);
      cell.setAttribute("role", "img"); cell.setAttribute("aria-label", cell.title);
      if (p !== null) make(cell, "i").style.height = percent(p);
      if (state.happened[i] === "edited") make(cell, "del", "", glyph(states()[at - 1].tokens[i]));
      make(cell, "b", "", glyph(token));
      if (signs[state.happened[i]]) make(cell, "sup", "", signs[state.happened[i]]);
      if (p !== null) make(cell, "small", "", `${Math.round(100 * p)}`);
    });
    get("said").textContent = said(state);
    get("prompt").textContent = trace.prompt;
    get("sketch").textContent = isLast() ? trace.sketch || "(none)" : "…";
    get("answer").textContent = isLast() ? trace.answer + (trace.complete ? "" : "  (incomplete)") : "…";
    slider.max = states().length - 1; slider.value = at;
    const end = states()[states().length - 1].step;
    const place = states().length > 1 ? `step ${state.step} of ${end}` : "one state";
    get("place").textContent = place; slider.setAttribute("aria-valuetext", place);
    play.textContent = timer ? "pause" : "play";
    [...table.rows].forEach((row, i) => i === at ? row.setAttribute("aria-current", "step")
      : row.removeAttribute("aria-current"));
    for (const button of document.querySelectorAll("[data-trace]"))
      button.setAttribute("aria-pressed", String(+button.dataset.trace === which));
  };
  const stop = () => { clearInterval(timer); timer = null; };
  const go = to => { at = Math.max(0, Math.min(states().length - 1, to)); if (isLast()) stop(); show(); };
  const jump = to => { stop(); go(to); };
  const toggle = () => {
    if (timer) { stop(); show(); return; }
    if (isLast()) at = 0;
    if (!isLast()) timer = setInterval(() => go(at + 1), pace);
    show();
  };
  const choose = to => { // another trace, from its first state
    stop(); which = (to + traces.length) % traces.length; at = 0;
    table.replaceChildren();
    const fits = states().length * states()[0].tokens.length <= most;
    get("many").hidden = fits;
    if (fits) states().forEach((state, k) => {
      const row = make(table, "tr"), button = make(make(row, "th"), "button", "", `step ${state.step}`);
      button.type = "button"; button.addEventListener("click", () => jump(k));
      state.tokens.forEach((token, i) => {
        const cell = make(row, "td", kind(state, i), glyph(token)), p = state.confidence[i];
        cell.title = told(state, i);
        if (p !== null) cell.style.backgroundColor = `rgba(var(--heat), ${(.4 * p).toFixed(3)})`;
      });
    });
    show();
  };

  play.addEventListener("click", toggle);
  slider.addEventListener("input", () => jump(+slider.value));
  const moves = { first: () => 0, back: () => at - 1, on: () => at + 1, last: () => states().length - 1 };
  for (const [id, to] of Object.entries(moves)) get(id).addEventListener("click", () => jump(to()));
  const speeds = [...document.querySelectorAll("[data-pace]")];
  for (const button of speeds) button.addEventListener("click", () => {
    pace = +button.dataset.pace;
    for (const other of speeds) other.setAttribute("aria-pressed", String(other === button));
    if (timer) { stop(); toggle(); }
  });
  for (const button of document.querySelectorAll("[data-trace]"))
    button.addEventListener("click", () => { choose(+button.dataset.trace); get("player").scrollIntoView(); });
  addEventListener("keydown", event => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const on = event.target, keys = { Home: () => jump(0), End: () => jump(states().length - 1) };
    if (on !== slider) Object.assign(keys, { ArrowLeft: () => jump(at - 1), ArrowRight: () => jump(at + 1) });
    if (!on.closest("button, a, summary")) keys[" "] = toggle;
    Object.assign(keys, { n: () => choose(which + 1), p: () => choose(which - 1) });
    if (!keys[event.key]) return;
    event.preventDefault(); keys[event.key]();
  });
  choose(0);
})();
"""
