"""What the pages are made of: numbers in words, tables, tiles, and the frame around a page.

Text that is passed as a label or a cell is ready-made HTML; whoever has text from an artifact
escapes it. What does not belong here: anything that knows one page's document.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import date
from html import escape

NOT_KNOWN = "n/a"
MINUS, DASH, THIN_SPACE = "\u2212", "\u2013", "\u202f"


def number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """Return a number as text, with a real minus sign and thin spaces between thousands."""
    if value is None or not math.isfinite(value):
        return NOT_KNOWN
    text = f"{value:+,.{digits}f}" if signed else f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", MINUS).replace(",", THIN_SPACE)


def percent(fraction: float | None, digits: int = 1, *, signed: bool = False) -> str:
    """Return a fraction as a percentage."""
    if fraction is None:
        return NOT_KNOWN
    return f"{number(100.0 * fraction, digits, signed=signed)} %"


def long_date(session: date) -> str:
    """Return the date with its weekday, as a heading has it."""
    return f"{session:%A} {session.day} {session:%B %Y}"


def plural(count: int, noun: str) -> str:
    """Return the count and its noun."""
    return f"{number(count, 0)} {noun}{'' if count == 1 else 's'}"


def table(
    head: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]], *, row_headers: int = 0
) -> str:
    """Return a table of HTML cells; ``head`` is (label, classes) and cells are ready-made HTML."""
    labels = "".join(f'<th scope="col"{_classes(classes)}>{label}</th>' for label, classes in head)
    lines = []
    for row in rows:
        cells = []
        for index, (cell, (_, classes)) in enumerate(zip(row, head, strict=True)):
            if index == row_headers:
                cells.append(f'<th scope="row"{_classes(classes)}>{cell}</th>')
            else:
                cells.append(f"<td{_classes(classes)}>{cell}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{labels}</tr></thead>\n'
        f"<tbody>{chr(10).join(lines)}</tbody></table></div>"
    )


def _classes(classes: str) -> str:
    return f' class="{classes}"' if classes else ""


def tile(name: str, value: str, how: str, picture: str = "") -> str:
    """Return one figure with its name and how it came about."""
    return (
        f'<div class="tile"><div class="name">{name}</div><div class="value">{value}</div>'
        f'{picture}<div class="how">{how}</div></div>'
    )


def caveats(texts: Sequence[str]) -> str:
    """Return what a reader must know before the first figure."""
    items = "".join(f"<li>{escape(text[:1].upper() + text[1:])}</li>" for text in texts)
    return (
        '<aside class="caveats" aria-labelledby="caveats"><h2 id="caveats">Read first: what these '
        f"numbers cannot show</h2><ul>{items}</ul></aside>"
    )


def page(title: str, body: str, *, footer: str, style: str) -> str:
    """Return the whole file."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style}</style></head>\n<body><main>\n{body}\n"
        f"<footer>{footer}</footer>\n</main></body></html>\n"
    )
