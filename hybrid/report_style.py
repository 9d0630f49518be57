"""The page's style sheet. No data ever enters it."""

STYLE = """
:root { --ground: #ffffff; --panel: #f6f8fa; --ink: #1b1f24; --muted: #59636e; --rule: #d8dee4; --grid:
  #e8ebee;
  --accent: #0969da; --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #b0508c; --s4: #b57b00; --s5:
  #2b8fc6;
  --heat: 0, 114, 178; }
@media (prefers-color-scheme: dark) { :root { --ground: #0f1318; --panel: #181e25; --ink: #e8ecf0;
  --muted: #9aa5b1; --rule: #323b45; --grid: #232b33; --accent: #6cb2ff; --s0: #4aa8e8; --s1: #ff8a3d;
  --s2: #2fc79b; --s3: #e59bc6; --s4: #f2b93b; --s5: #8fd0f5; --heat: 74, 168, 232; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 4px; }
section { margin-top: 36px; }
.under, .note { color: var(--muted); margin: 4px 0 0; overflow-wrap: anywhere; }
.note { font-size: .875rem; margin-bottom: 12px; }
.guide { max-width: 72ch; margin: 16px 0 0; }
a { color: var(--accent); }
button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
button:focus-visible, [tabindex]:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.axes { display: inline-flex; flex-wrap: wrap; gap: 2px; background: var(--panel); border-radius: 9px;
  border: 1px solid var(--rule); padding: 3px; }
.axes button { font-size: .875rem; padding: 4px 11px; border-radius: 6px; color: var(--muted); }
.axes button[aria-pressed=true] { background: var(--ground); color: var(--ink); box-shadow: 0 0 0 1px
  var(--rule); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 14px 0 4px; font-size: .875rem; }
.legend button { display: inline-flex; align-items: center; gap: 7px; padding: 2px 0; }
.legend button[aria-pressed=false] { opacity: .42; text-decoration: line-through; }
.legend svg { width: 24px; height: 12px; flex: none; overflow: visible; }
#chart svg { display: block; width: 100%; overflow: visible; font-size: 13px; }
#chart text { fill: var(--muted); } #chart text.name { fill: var(--ink); }
.grid { stroke: var(--grid); } .base { stroke: var(--rule); } .lead { stroke: var(--rule); }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); }
.s3 { --c: var(--s3); } .s4 { --c: var(--s4); } .s5 { --c: var(--s5); }
.point { --c: var(--ink); } .level { --c: var(--muted); }
.curve { fill: none; stroke: var(--c); stroke-width: 2.2; stroke-linejoin: round; }
.point .curve { stroke-dasharray: 2 4; stroke-width: 1.5; }
.level .curve { stroke-dasharray: 7 4; stroke-width: 1.3; }
.band { fill: var(--c); opacity: .15; } .whisker { stroke: var(--muted); stroke-width: 1.3; }
.dot { fill: var(--c); stroke: var(--ground); stroke-width: 1.5; } .point .dot { fill: var(--ground);
  stroke: var(--c);
  stroke-width: 2; }
.hit { fill: transparent; cursor: default; } .hit:focus { outline: none; stroke: var(--accent);
  stroke-width: 2; }
.hit:hover { stroke: var(--c); stroke-width: 1.5; stroke-opacity: .5; }
#tip { position: absolute; z-index: 5; pointer-events: none; background: var(--ground); border: 1px solid
  var(--rule);
  border-radius: 8px; padding: 9px 12px; font-size: .8125rem; line-height: 1.45; max-width: 300px;
  box-shadow: 0 6px 20px rgba(0, 0, 0, .18); }
#tip b { display: block; margin-bottom: 3px; overflow-wrap: anywhere; }
#tip div { display: flex; justify-content: space-between; gap: 18px; }
#tip div span { color: var(--muted); } #tip hr { border: 0; border-top: 1px solid var(--rule); margin:
  5px 0; }
.scroll { overflow-x: auto; border: 1px solid var(--rule); border-radius: 8px; }
table { border-collapse: collapse; font-size: .8125rem; font-variant-numeric: tabular-nums; }
#rows th, #rows td { padding: 5px 11px; text-align: left; white-space: nowrap; border-bottom: 1px solid
  var(--grid); }
#rows tr:last-child td { border-bottom: 0; } 
#rows thead th { background: var(--panel); border-bottom-color: var(--rule); font-weight: 600; }
#rows th button { font-weight: 600; } #rows th[aria-sort=ascending] button::after { content: " ▲";
  font-size: .7em; }
#rows th[aria-sort=descending] button::after { content: " ▼"; font-size: .7em; }
#rows th:first-child, #rows td:first-child { position: sticky; left: 0; background: var(--ground);
  z-index: 1;
  box-shadow: 1px 0 0 var(--grid); }
#rows th:first-child { background: var(--panel); } #rows tbody tr:hover td { background: var(--panel); }
#rows .number { text-align: right; }
.none { color: var(--muted); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 14px; }
.card { width: 100%; border: 1px solid var(--rule); border-collapse: separate; border-spacing: 4px;
  border-radius: 8px;
  padding: 4px 6px; } .card caption { text-align: left; font-weight: 600; padding: 4px 2px;
  overflow-wrap: anywhere; }
.card th { font-weight: 400; color: var(--muted); text-align: left; white-space: nowrap; }
.card tbody td { text-align: right; padding: 6px 10px; border-radius: 5px; }
.card tfoot td { color: var(--muted); padding-top: 2px; }
.heat0 { background: rgba(var(--heat), .05); } .heat1 { background: rgba(var(--heat), .14); }
.heat2 { background: rgba(var(--heat), .22); } .heat3 { background: rgba(var(--heat), .31); }
.heat4 { background: rgba(var(--heat), .42); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 2px 28px; margin:
  10px 0 0;
  font-size: .875rem; } dl div { display: flex; justify-content: space-between; gap: 12px; padding: 4px 0;
  border-bottom: 1px solid var(--grid); } dt { color: var(--muted); } dd { margin: 0; text-align: right;
  overflow-wrap: anywhere; }
@media (max-width: 560px) { main { padding: 20px 14px 48px; } h1 { font-size: 1.4rem; }
  .axes button { padding: 4px 8px; font-size: .8125rem; } .guide { font-size: .9375rem; } }
"""
