"""The result of a model selection as one page that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 820, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 20, 52

STYLE = """
:root{--bg:#fff;--fg:#1c2330;--dim:#667085;--line:#d9dee7;--dot:#3b6fd4;--front:#d4572b;
--row:#f5f7fa}
@media(prefers-color-scheme:dark){:root{--bg:#14181f;--fg:#e6e9ef;--dim:#98a2b3;--line:#333b48;
--dot:#7aa2f7;--front:#ff9e64;--row:#1c222c}}
body{font:15px/1.45 system-ui,sans-serif;background:var(--bg);color:var(--fg);margin:2rem auto;
max-width:1080px;padding:0 1rem}h1{font-size:1.4rem;margin:0}
p.sub{color:var(--dim);margin:.2rem 0 1rem}
svg{width:100%;height:auto}
svg text{fill:var(--dim);font-size:12px}.axis{stroke:var(--line)}
.ci{stroke:var(--dot);opacity:.45}.dot{fill:var(--dot);cursor:pointer}.dot.front{fill:var(--front)}
.path{fill:none;stroke:var(--front);stroke-width:1.5;stroke-dasharray:5 4}
svg text.name{fill:var(--fg)}
.dot:focus,.dot.on{stroke:var(--fg);stroke-width:2.5;outline:none}
.wrap{overflow-x:auto}table{border-collapse:collapse;width:100%;margin-top:1rem}
th,td{padding:.35rem .6rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tbody tr.on,tbody tr:hover{background:var(--row)}tr.off{color:var(--dim)}
th button{all:unset;cursor:pointer;font-weight:600}
th button:focus-visible{outline:2px solid var(--dot)}
input{font:inherit;padding:.3rem .5rem;border:1px solid var(--line);border-radius:6px;
background:var(--bg);color:var(--fg)}.tag{color:var(--front);font-weight:600}
"""

SCRIPT = """
const body=document.querySelector('tbody');
document.querySelectorAll('th button').forEach((button,column)=>button.onclick=()=>{
  const up=button.dataset.up!=='1';button.dataset.up=up?'1':'0';
  const key=row=>{const cell=row.children[column];const raw=cell.dataset.value;
    return raw===undefined?cell.textContent.toLowerCase():raw===''?Infinity*(up?1:-1):+raw};
  [...body.rows].sort((a,b)=>{const x=key(a),y=key(b);return (x<y?-1:x>y?1:0)*(up?1:-1)})
    .forEach(row=>body.append(row))});
document.getElementById('filter').oninput=event=>{
  const words=event.target.value.toLowerCase().split(/\\s+/);
  for(const row of body.rows)row.hidden=!words.every(w=>row.textContent.toLowerCase().includes(w))};
const mark=(name,on)=>document.querySelectorAll('[data-name]').forEach(e=>{
  if(e.dataset.name===name)e.classList.toggle('on',on)});
document.querySelectorAll('[data-name]').forEach(e=>{
  e.addEventListener('mouseenter',()=>mark(e.dataset.name,true));
  e.addEventListener('mouseleave',()=>mark(e.dataset.name,false));
  if(e.matches('.dot'))e.addEventListener('click',()=>document.querySelector(
    `tr[data-name="${CSS.escape(e.dataset.name)}"]`).scrollIntoView({block:'center'}))});
"""


def write_page(file: str | Path, title: str, about: str,
               found: Sequence[Mapping[str, Any]]) -> None:
    """Write the page.

    Args:
        file: to write.
        title: heading.
        about: what was measured, one sentence.
        found: candidates in the order of their rank, as ``asdict(Measured)`` gives them.
    """
    measured = [one for one in found if one['accuracy'] is not None
                and one['status'] == 'measured']
    rows = ''.join(_row(rank if one in measured else None, one)
                   for rank, one in enumerate(found, 1))
    heads = ''.join(f'<th class="{kind}"><button>{name}</button></th>' for name, kind in (
        ('rank', 'n'), ('model', ''), ('accuracy', 'n'), ('95 % interval', 'n'),
        ('latency', 'n'), ('parameters', 'n'), ('licence', ''), ('business use', ''),
        ('measured by', '')))
    Path(file).write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_safe(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f'<h1>{_safe(title)}</h1><p class="sub">{_safe(about)}</p>{_plot(measured)}'
        '<label>Filter <input id="filter" type="search" placeholder="name, licence, ..."></label>'
        f'<div class="wrap"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        f'</div><script>{SCRIPT}</script></body></html>\n', encoding='utf-8')


def _safe(text: Any) -> str:
    return html.escape(str(text), quote=True)


def _row(rank: int | None, one: Mapping[str, Any]) -> str:
    business = {True: 'permitted', False: 'forbidden', None: 'unclear'}[one['commercial']]
    terms = '; '.join(one['terms'])
    accuracy, latency = one['accuracy'], one['latency_ms']
    is_measured = rank is not None
    how = one['method'] if is_measured else f'{one["status"]}: {one["reason"]}'
    cells = [
        ('n', rank, rank or ''),
        ('', None, _safe(one['name']) + (' <span class="tag">front</span>'
                                         if one['on_front'] else '')),
        ('n', accuracy, f'{100 * accuracy:.1f} %' if is_measured else ''),
        ('n', one['low'], f'{100 * one["low"]:.1f} to {100 * one["high"]:.1f}'
         if is_measured else ''),
        ('n', latency, '' if latency is None else f'{latency:.1f} ms'),
        ('n', one['params'], '' if one['params'] is None else f'{one["params"] / 1e6:.1f} M'),
        ('', None, _safe(one['license'] or 'not stated')),
        ('', None, f'<span title="{_safe(terms)}">{business}</span>'),
        ('', None, f'<span title="{_safe(one["matched"])}">{_safe(how)}</span>'),
    ]
    inner = ''.join(
        f'<td class="{kind}"' + (f' data-value="{"" if value is None else value}"'
                                 if kind == 'n' else '') + f'>{text}</td>'
        for kind, value, text in cells)
    kind = '' if is_measured else 'off'
    return f'<tr data-name="{_safe(one["name"])}" class="{kind}">{inner}</tr>'


def _plot(found: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy over latency, each with its interval; the front as a line."""
    if not found:
        return '<p>Nothing was measured.</p>'
    times = [math.log10(max(one['latency_ms'] or 0.01, 0.01)) for one in found]
    low_x, high_x = min(times) - 0.1, max(times) + 0.25
    low_y = max(0.0, math.floor(20 * min(one['low'] for one in found)) / 20)
    high_y = min(1.0, math.ceil(20 * max(one['high'] for one in found)) / 20)

    def x(value: float) -> float:
        return LEFT + (value - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high_y - value) / max(high_y - low_y, 1e-9) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for step in range(5):
        value = low_y + (high_y - low_y) * step / 4
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" '
                     f'y2="{y(value):.1f}"/><text x="{LEFT - 8}" y="{y(value) + 4:.1f}" '
                     f'text-anchor="end">{100 * value:.0f} %</text>')
    for tick in _ticks(10 ** low_x, 10 ** high_x):
        at = x(math.log10(tick))
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{HEIGHT - BOTTOM}" '
                     f'y2="{HEIGHT - BOTTOM + 5}"/><text x="{at:.1f}" y="{HEIGHT - BOTTOM + 20}" '
                     f'text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
                 'milliseconds an image, logarithmic</text>')
    front = sorted((t, one['accuracy']) for t, one in zip(times, found) if one['on_front'])
    line = ' '.join(f'{x(t):.1f},{y(a):.1f}' for t, a in front)
    parts.append(f'<polyline class="path" points="{line}"/>')
    for t, one in zip(times, found):
        parts.append(_dot(x(t), y(one['accuracy']), y(one['low']), y(one['high']), one))
    return (f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="accuracy over latency">'
            f'{"".join(parts)}</svg>')


def _dot(x: float, y: float, low: float, high: float, one: Mapping[str, Any]) -> str:
    tip = (f'{one["name"]}: {100 * one["accuracy"]:.1f} % '
           f'({100 * one["low"]:.1f} to {100 * one["high"]:.1f}), {one["latency_ms"]:.1f} ms')
    name = (f'<text class="name" x="{x + 9:.1f}" y="{y + 4:.1f}">'
            f'{_safe(one["name"].partition("/")[2])}</text>' if one['on_front'] else '')
    kind = 'dot front' if one['on_front'] else 'dot'
    return (f'<line class="ci" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5" tabindex="0" '
            f'data-name="{_safe(one["name"])}"><title>{_safe(tip)}</title></circle>{name}')


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20 ... inside the range."""
    steps = [float(f'{digit}e{power}') for power in range(-3, 7) for digit in (1, 2, 5)]
    return [step for step in steps if low <= step <= high]
