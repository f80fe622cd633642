"""Draw ``docs/architecture.svg``: the daily chain, the stores under it, and who reads them.

The order of the boxes is the order in which the DAGs run; a DAG without words here is an error, so
the picture cannot fall behind the code. Written by ``docs/render.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from marketlake.services.platform.following import DAILY_CHAIN

ON_DEMAND = ("load_history", "train_models", "archive_lake", "publish_docs")
WATCHING = "check_deadlines: is the report there in time?"

_SAYS = {
    "ingest_market_data": ("real vendor clients,", "answers kept", "byte for byte"),
    "validate_market_data": ("sources vote; Great", "Expectations gate;", "bad rows kept out"),
    "build_warehouse": ("binary load, then", "dbt: staging to", "tested marts"),
    "build_features": ("closes only,", "nothing after t", "can change t"),
    "predict_signals": ("champion as of", "the session, with", "honest intervals"),
    "assess_risk": ("volatility, VaR,", "exposures, regime", "of a declared book"),
    "report_daily": ("one page, named", "files, hashes of", "every input"),
}
_STORES = (
    ("S3 lake", "raw, core, out: Parquet and JSON under contracts; manifests; versions", 0),
    ("Postgres", "the warehouse analysts query: marts with enforced contracts", 2),
    (
        "Ledger",
        "Merkle log of every vendor call, calculation, gate, publish; export_audit: files",
        0,
    ),
)
_READERS = (
    ("Airflow UI", "runs, retries, backfills"),
    ("SQL", "marketlake sql, dbt marts"),
    ("Command line", "signals, trace, audit verify"),
    ("Files", "report page and named exports"),
)
_WIDTH, _HEIGHT = 1200, 572
_LEFT, _BOX, _GAP, _TOP, _TALL = 176, 132, 14, 74, 124
_RIGHT = _LEFT + 7 * _BOX + 6 * _GAP
_STORE_TOP, _STORE, _STORE_GAP = 248, 54, 14
_READER_TOP = 482
_STYLE = """
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
fill:#16202a}
.page{fill:#ffffff}.box{fill:#ffffff;stroke:#9fb0c0;stroke-width:1.25}
.dag{fill:#eef4fb;stroke:#2563a8}.store{fill:#eef7f4;stroke:#0d7d6c}
.outside{fill:#fff6e0;stroke:#c79a2e}.demand{fill:none;stroke:#2563a8;stroke-dasharray:4 3}
.name{font-size:13.5px;font-weight:650}.says{font-size:12px;fill:#4a5763}
.band{font-size:12.5px;fill:#4a5763}.line{stroke:#7b8a98;stroke-width:1.4;fill:none}
.thin{stroke:#b9c5cf;stroke-width:1.2;fill:none}.head{fill:#7b8a98}
@media(prefers-color-scheme:dark){text{fill:#e4e9ee}.page{fill:#0d1117}
.box{fill:#171e24;stroke:#465562}.dag{fill:#14263a;stroke:#6fa8e8}
.store{fill:#10302a;stroke:#4cc3ad}.outside{fill:#2b2412;stroke:#b08b33}.demand{fill:none}
.says,.band{fill:#a5b1bc}.line{stroke:#8996a2}.thin{stroke:#3a4752}.head{fill:#8996a2}}
"""


def draw() -> str:
    """Return the picture as SVG text."""
    parts = [
        f'<rect class="page" width="{_WIDTH}" height="{_HEIGHT}" rx="10"/>',
        _text(_LEFT, 32, "name", "One exchange session, one run of every DAG"),
        _text(_LEFT + 4 * (_BOX + _GAP), 32, "band", WATCHING),
        _text(
            _LEFT,
            52,
            "band",
            "Airflow 3.3: the partition key is the session; each DAG waits for the asset of the "
            "one before, so one backfill or one cleared task walks the whole chain",
        ),
        _vendor(),
    ]
    for number, dag_id in enumerate(DAILY_CHAIN):
        parts.append(_dag(number, dag_id))
    parts += [_store(number, *store) for number, store in enumerate(_STORES)]
    parts.append(_on_demand())
    parts += [_reader(number, *reader) for number, reader in enumerate(_READERS)]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Marketlake: {escape(", ".join(DAILY_CHAIN))}, over an S3 lake, a Postgres '
        f'warehouse and a ledger">\n<style>{_STYLE}</style>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, style: str, words: str, *, middle: bool = False) -> str:
    anchor = ' text-anchor="middle"' if middle else ""
    return f'<text x="{x}" y="{y}" class="{style}"{anchor}>{escape(words)}</text>'


def _box(x: float, y: float, wide: float, tall: float, *, style: str) -> str:
    return f'<rect class="box {style}" x="{x}" y="{y}" width="{wide}" height="{tall}" rx="8"/>'


def _arrow(x: float, y: float, to_x: float) -> str:
    return (
        f'<path class="line" d="M{x} {y}H{to_x - 5}"/><path class="head" d="M{to_x} {y}l-7 -4v8z"/>'
    )


def _drop(x: float, y: float, to_y: float) -> str:
    return (
        f'<path class="thin" d="M{x} {y}V{to_y - 5}"/>'
        f'<path class="head" d="M{x} {to_y}l-3.5 -6h7z" opacity=".6"/>'
    )


def _lines(x: float, y: float, style: str, lines: Sequence[str], *, middle: bool = False) -> str:
    return "".join(
        _text(x, y + 16 * number, style, line, middle=middle) for number, line in enumerate(lines)
    )


def _vendor() -> str:
    middle = _TOP + _TALL / 2
    return (
        _box(20, _TOP, _BOX, _TALL, style="outside")
        + _lines(32, _TOP + 24, "name", ("Yahoo, IEX,", "Alpha Vantage"))
        + _lines(32, _TOP + 68, "says", ("or the sandbox", "that speaks their", "protocols"))
        + _arrow(20 + _BOX, middle, _LEFT)
    )


def _dag(number: int, dag_id: str) -> str:
    x = _LEFT + number * (_BOX + _GAP)
    verb, _, rest = dag_id.partition("_")
    drawn = (
        _box(x, _TOP, _BOX, _TALL, style="dag")
        + _lines(x + 12, _TOP + 24, "name", (f"{verb}_", rest))
        + _lines(x + 12, _TOP + 68, "says", _SAYS[dag_id])
        + _drop(x + _BOX / 2, _TOP + _TALL, _STORE_TOP)
    )
    if number:
        drawn += _arrow(x - _GAP, _TOP + _TALL / 2, x)
    return drawn


def _store(number: int, name: str, says: str, first: int) -> str:
    x = _LEFT + first * (_BOX + _GAP)
    y = _STORE_TOP + number * (_STORE + _STORE_GAP)
    return (
        _box(x, y, _RIGHT - x, _STORE, style="store")
        + _text(x + 16, y + 33, "name", name)
        + _text(x + 106, y + 33, "says", says)
    )


def _on_demand() -> str:
    tall = 3 * _STORE + 2 * _STORE_GAP
    return (
        _box(20, _STORE_TOP, _BOX, tall, style="demand")
        + _lines(32, _STORE_TOP + 28, "name", ("On demand",))
        + _lines(32, _STORE_TOP + 54, "says", ON_DEMAND)
        + _lines(
            32,
            _STORE_TOP + 130,
            "says",
            ("same vendor path,", "same gates, one", "manifest a year"),
        )
    )


def _reader(number: int, name: str, says: str) -> str:
    wide = (_RIGHT - _LEFT - 3 * _GAP) / 4
    x = _LEFT + number * (wide + _GAP)
    bottom = _STORE_TOP + 3 * _STORE + 2 * _STORE_GAP
    return (
        _drop(x + wide / 2, bottom, _READER_TOP)
        + _box(x, _READER_TOP, wide, 66, style="")
        + _text(x + 16, _READER_TOP + 28, "name", name)
        + _text(x + 16, _READER_TOP + 49, "says", says)
    )
