"""The one style sheet. Colours are variables, once for light and once for dark; each pair is legible (WCAG AA, tested)."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root{color-scheme:light dark;--page:#ffffff;--card:#f4f6f8;--text:#1b1f24;--quiet:#525a64;--line:#c3cad3;--edge:#737c88;
--accent:#0a58a6;--mark:#0a58a6;--second:#8a4b00;--warn:#8f1d1d}
@media (prefers-color-scheme:dark){:root{--page:#14171a;--card:#1f2429;--text:#e9ecef;--quiet:#adb5bf;--line:#3d454e;
--edge:#838d98;--accent:#86bdff;--mark:#6cabf5;--second:#f0b35c;--warn:#ffa3a3}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--text);font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
header,main,footer,nav{max-width:72rem;margin:0 auto;padding:0 1rem}
h1{font-size:1.6rem;line-height:1.2;margin:1.5rem 0 .25rem}
h2{font-size:1.25rem;margin:2.5rem 0 .5rem;padding-top:.5rem;border-top:1px solid var(--line)}
h3{font-size:1.05rem;margin:0 0 .25rem;overflow-wrap:anywhere}
p{margin:.25rem 0 .75rem;max-width:44rem}
p,h1,figcaption,.notes,footer{overflow-wrap:anywhere}
a{color:var(--accent)}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
.skip{position:absolute;left:-999rem}
.skip:focus{left:1rem;top:.5rem;background:var(--page);padding:.5rem 1rem;z-index:1}
.quiet,footer{color:var(--quiet)}
footer{margin-top:3rem;padding-bottom:2rem;font-size:.9rem}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:.75rem 0 0;padding:0}
nav a{display:inline-block;padding:.4rem 0}
.name{overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,9.5rem),1fr));gap:.75rem;margin:1rem 0;padding:0}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.6rem .8rem}
.tiles dt{color:var(--quiet);font-size:.9rem}
.tiles dd{margin:0;font-size:1.3rem;font-weight:600;line-height:1.3;overflow-wrap:anywhere}
.tiles .small{display:block;font-size:.85rem;font-weight:400;color:var(--quiet)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr));gap:1rem;margin:1rem 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.9rem;min-width:0}
.wide{grid-column:1/-1}
.cards.one{grid-template-columns:minmax(0,1fr)}
figure{margin:.75rem 0 0}
figcaption{font-size:.9rem;color:var(--quiet);margin-bottom:.25rem}
svg{display:block;width:100%;height:auto;max-width:30rem}
svg text{font:11px system-ui,sans-serif;fill:var(--quiet)}
.grid{stroke:var(--line);stroke-width:1}
.axis{stroke:var(--edge);stroke-width:1}
.curve{fill:none;stroke:var(--mark);stroke-width:2;stroke-linejoin:round}
.dot,.bar{fill:var(--mark)}
.bar.b{fill:var(--second)}
.scroll{overflow-x:auto;margin:.75rem 0;border:1px solid var(--line);border-radius:.5rem;background:var(--page)}
table{border-collapse:collapse;width:100%;font-size:.92rem}
caption{text-align:left;padding:.5rem .7rem;color:var(--quiet)}
caption span{position:sticky;left:.7rem;display:inline-block;max-width:min(100%,calc(100vw - 5rem))}
th,td{text-align:left;vertical-align:top;padding:.4rem .6rem;border-top:1px solid var(--line)}
th{font-weight:600}
thead th{border-bottom:2px solid var(--edge);vertical-align:bottom}
.named{min-width:9rem;max-width:24rem;overflow-wrap:anywhere}
td{min-width:4rem}
.short{width:4rem}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
thead .n{white-space:normal}
td ul{margin:0;padding-left:1rem}
td.text{min-width:12rem;overflow-wrap:anywhere}
details{margin-top:.75rem}
summary{cursor:pointer;overflow-wrap:anywhere;color:var(--accent);padding:.3rem 0}
.hint{border-left:4px solid var(--edge);padding-left:.75rem;overflow-wrap:anywhere}
.kind{font-weight:600;color:var(--warn)}
.notes{padding-left:1.1rem;max-width:44rem}
@media print{nav,.skip{display:none}.card{break-inside:avoid}}
@media (prefers-reduced-motion:no-preference){html{scroll-behavior:smooth}}
"""
