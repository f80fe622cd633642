"""The daily page's style sheet: one constant, light and dark, wide and phone.

What does not belong here: markup. Colours mean the same in both schemes, and never stand alone:
every coloured mark has a word or a sign beside it.
"""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--paper:#f6f7f8;--card:#fff;--ink:#16202a;--soft:#5b6772;
--rule:#e1e5e9;--blue:#2563a8;--blue-soft:#2563a81f;--long:#0d7d6c;--short:#b5531c;
--warn:#8a5a00;--warn-bg:#fff6e0;--warn-rule:#e8c36a;--bad:#b3261e;--bad-bg:#fdecea;--good:#0d7d6c;
--good-bg:#e4f4f0}
@media(prefers-color-scheme:dark){:root{--paper:#101519;--card:#171e24;--ink:#e4e9ee;--soft:#98a5b1;
--rule:#2a343d;--blue:#6fa8e8;--blue-soft:#6fa8e826;--long:#4cc3ad;--short:#ef9a63;
--warn:#f0c66a;--warn-bg:#2b2412;--warn-rule:#6b5420;--bad:#ff8a80;--bad-bg:#33191a;--good:#4cc3ad;
--good-bg:#12302b}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
font-variant-numeric:tabular-nums;-webkit-text-size-adjust:100%}
main{max-width:1180px;margin:0 auto;padding:28px 24px 48px}
header{display:flex;flex-wrap:wrap;align-items:end;justify-content:space-between;gap:8px 24px;
padding-bottom:14px;border-bottom:2px solid var(--ink)}
.brand{font-size:13px;letter-spacing:.08em;text-transform:uppercase;color:var(--soft)}
h1{margin:2px 0 0;font-size:30px;line-height:1.15;letter-spacing:-.01em;font-weight:650}
h2{margin:0 0 2px;font-size:17px;font-weight:650}
h3{margin:18px 0 4px;font-size:13px;font-weight:600;color:var(--soft)}
p{margin:0 0 10px}
.nobr{white-space:nowrap}
.note{color:var(--soft);font-size:13px;margin:0 0 12px}
.chips{display:flex;flex-wrap:wrap;gap:6px}
.chip{border:1px solid var(--rule);border-radius:99px;padding:2px 11px;font-size:13px;
white-space:nowrap;background:var(--card)}
.chip.good{color:var(--good);background:var(--good-bg);border-color:transparent;font-weight:600}
.chip.bad{color:var(--bad);background:var(--bad-bg);border-color:transparent;font-weight:600}
.chip.warn{color:var(--warn);background:var(--warn-bg);border-color:var(--warn-rule)}
.lead{font-size:17px;line-height:1.5;margin:18px 0 18px;max-width:70em}
.caveats{background:var(--warn-bg);border:1px solid var(--warn-rule);border-radius:10px;
padding:14px 18px;margin:0 0 18px}
.caveats h2{color:var(--warn)}
.caveats ul{margin:6px 0 0;padding-left:20px}
.caveats li{margin:3px 0}
.grid2{display:grid;grid-template-columns:minmax(0,1.5fr) minmax(0,1fr);gap:18px;align-items:start}
section{background:var(--card);border:1px solid var(--rule);border-radius:10px;
padding:18px 20px;margin:0 0 18px;min-width:0}
.tiles{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:0;padding:0;overflow:hidden}
.tile{padding:15px 18px 14px;border-left:1px solid var(--rule);margin-left:-1px}
.tile .name{font-size:13px;color:var(--soft)}
.tile .value{font-size:27px;line-height:1.25;font-weight:650;letter-spacing:-.01em}
td small{display:block;font-size:12px;line-height:1.25;color:var(--soft)}
.tile .value small{font-size:15px;font-weight:500;color:var(--soft);letter-spacing:0}
.tile .how{font-size:13px;color:var(--soft);line-height:1.4}
.scroll{overflow-x:auto;margin:0 -4px}
table{border-collapse:collapse;width:100%;font-size:14px}
th{font-weight:600;font-size:12.5px;color:var(--soft);text-align:left;white-space:nowrap;
vertical-align:bottom}
th,td{padding:5px 6px;border-bottom:1px solid var(--rule)}
td,tbody th{vertical-align:middle}
.facts td,.facts th{vertical-align:top}
th:first-child,td:first-child{padding-left:4px}
th:last-child,td:last-child{padding-right:4px}
tbody tr:last-child td,tbody tr:last-child th{border-bottom:0}
tbody th{color:var(--ink);font-size:14px;font-weight:600}
.n{text-align:right;white-space:nowrap}
.side{font-weight:600;white-space:nowrap}
.long{color:var(--long)}.short{color:var(--short)}.flat{color:var(--soft)}
.diverging,.whisker,.bar{position:relative;display:block;height:14px;min-width:58px}
.diverging::before{content:"";position:absolute;left:50%;top:-3px;bottom:-3px;
border-left:1px solid var(--soft);opacity:.5}
.diverging i{position:absolute;top:2px;bottom:2px;border-radius:2px;background:currentColor}
.bar i{position:absolute;left:0;top:2px;bottom:2px;border-radius:2px;background:var(--blue)}
.whisker::before{content:"";position:absolute;left:0;right:0;top:50%;
border-top:1px solid var(--rule)}
.whisker i{position:absolute}
.whisker .range{top:5px;bottom:5px;border-radius:2px;background:var(--blue);opacity:.4}
.whisker .dot{width:8px;height:8px;margin:-4px 0 0 -4px;top:50%;border-radius:50%;
background:var(--blue)}
.whisker .ref{top:-1px;bottom:-1px;border-left:2px solid var(--ink);margin-left:-1px;opacity:.7}
.tile .whisker{margin:6px 0 5px}
.key{display:inline-block;width:0;height:11px;border-left:2px solid var(--ink);opacity:.7;
margin:0 3px -1px 1px}
.chart{position:relative;height:170px;margin:4px 58px 26px 0}
.chart.low{height:110px}
.chart svg{position:absolute;inset:0;width:100%;height:100%;display:block;overflow:visible}
.chart line,.chart polyline{vector-effect:non-scaling-stroke;fill:none}
.chart .grid{stroke:var(--rule);stroke-width:1}
.chart .base{stroke:var(--soft);stroke-width:1}
.chart .line{stroke-width:1.75;stroke-linejoin:round}
.chart .line.book{stroke:var(--blue)}.chart .area.book{fill:var(--blue-soft)}
.chart .line.loss{stroke:var(--short)}.chart .area.loss{fill:var(--short);opacity:.16}
.chart span{position:absolute;font-size:12px;color:var(--soft);white-space:nowrap;line-height:1}
.chart .y{left:calc(100% + 7px);transform:translateY(-50%)}
.chart .x{top:calc(100% + 7px);transform:translateX(-50%)}
dl{display:grid;grid-template-columns:minmax(0,1fr) auto;gap:0;margin:0;font-size:14px}
dt,dd{padding:4px 0;border-bottom:1px solid var(--rule);margin:0}
dt{color:var(--soft)}
dd{text-align:right;font-weight:600;padding-left:12px;overflow-wrap:anywhere}
dt:nth-last-of-type(1),dd:nth-last-of-type(1){border-bottom:0}
.state{font-size:22px;font-weight:650;margin:2px 0 6px}
.history{display:flex;height:16px;border-radius:4px;overflow:hidden;margin:2px 0 5px;gap:1px}
.history i{flex:1;background:var(--soft);opacity:.45}
.history .bull{background:var(--long);opacity:1}
.history .bear{background:var(--short);opacity:1}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:12.5px;color:var(--soft)}
.legend i{display:inline-block;width:9px;height:9px;border-radius:2px;margin-right:5px;
background:var(--soft);opacity:.45}
.legend .bull i{background:var(--long);opacity:1}.legend .bear i{background:var(--short);opacity:1}
code{font:12.5px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
td code{white-space:nowrap}
.hash{color:var(--soft)}
footer{color:var(--soft);font-size:13px;padding:4px 2px}
@media(max-width:900px){.grid2{grid-template-columns:minmax(0,1fr)}
.tiles{grid-template-columns:repeat(2,minmax(0,1fr))}.tile{border-top:1px solid var(--rule);
margin-top:-1px}}
@media(max-width:560px){main{padding:18px 12px 32px}h1{font-size:24px}.lead{font-size:16px}
section{padding:15px 14px}.tiles{padding:0}.tile{padding:12px 14px}.tile .value{font-size:22px}
.wide{display:none}th,td{padding:5px 4px}table{font-size:13.5px}tbody th{font-size:13.5px}
.diverging,.whisker,.bar{min-width:44px}thead .scale{font-size:0}
.chart{margin-right:46px}.hash .rest{display:none}}
@media print{body{background:#fff;font-size:12px}section,.caveats{break-inside:avoid}}
"""
