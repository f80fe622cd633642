"""The daily page: one self-contained HTML file made from the report document alone.

It is for two readers: a quant, who wants every number with its sample, interval and base rate, and
a compliance officer, who wants to see what passed, what was kept out, and the hashes behind it.
The same document gives the same bytes. What does not belong here: computing any measure of the
market; the two curves are only the document's returns, compounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from html import escape
from itertools import accumulate
from typing import Any

from marketlake.domain.reporting import charts
from marketlake.domain.reporting.markup import (
    DASH,
    NOT_KNOWN,
    caveats,
    long_date,
    number,
    page,
    percent,
    plural,
    table,
    tile,
)
from marketlake.domain.reporting.page_style import STYLE
from marketlake.errors import ContractViolation

_UNITS = {"_pct": " %", "_bps": " bps", "_usd": " USD", "_sessions": " sessions"}
_KEY = '<i class="key"></i>'
_SIDE_SIGN = {"long": "▲", "short": "▼", "flat": "■"}
_MOST_ROWS = 40
"""Longest table of the page; a larger universe shows its two ends."""
_BOOK_ROWS = (
    ("volatility_annual_pct", "Volatility, annual"),
    ("beta", "Beta to the benchmark"),
    ("var_95_pct", "Value at risk, 1 day, 95 %"),
    ("var_99_pct", "Value at risk, 1 day, 99 %"),
    ("cvar_95_pct", "Expected shortfall, 95 %"),
    ("cvar_99_pct", "Expected shortfall, 99 %"),
    ("max_drawdown_pct", "Deepest drawdown of the window"),
    ("gross_pct", "Gross exposure"),
    ("net_pct", "Net exposure"),
    ("concentration_hhi", "Concentration (Herfindahl)"),
)


def render(document: Mapping[str, Any]) -> bytes:
    """Return the page of one ``out_reports__daily`` document as UTF-8 HTML.

    Raises
    ------
    ContractViolation
        When a member that the page shows is not in the document.
    """
    try:
        session = date.fromisoformat(document["session"])
        headline, risk = document["headline"], document["risk"]
        integrity, signals = document["integrity"], document["signals"]
        body = "\n".join(
            [
                _header(session, document),
                _lead(headline, integrity, signals),
                caveats(document["caveats"]),
                _tiles(headline, risk, signals),
                '<div class="grid2"><div>',
                _signals(signals, document["not_predicted"]),
                "</div><div>",
                _regime(document["regime"]),
                _sectors(risk["sectors"]),
                "</div></div>",
                _book(risk["returns"]),
                '<div class="grid2"><div>',
                _members(risk["symbols"]),
                "</div><div>",
                _book_measures(risk),
                _integrity(integrity),
                "</div></div>",
                _inputs(document["inputs"], headline["model"]),
            ]
        )
    except KeyError as error:
        raise ContractViolation(
            expected=f"a report document with the member {error}",
            was="a document without it",
            where="out_reports__daily",
            todo="publish the session's report again with report_daily",
        ) from None
    title = f"Marketlake · {session.isoformat()}"
    return page(
        title,
        body,
        footer="Every figure on this page comes from the artifacts listed above. The page is "
        "made from their contents alone: the same inputs give the same bytes.",
        style=STYLE,
    ).encode()


def _header(session: date, document: Mapping[str, Any]) -> str:
    integrity = document["integrity"]
    gate, hours = integrity["gate"], integrity["calendar"]
    passed = gate["verdict"] == "passed"
    chips = [
        f'<span class="chip {"good" if passed else "bad"}">'
        f"{'✓' if passed else '✗'} gate {escape(gate['verdict'])}</span>"
    ]
    if gate["rows_quarantined"]:
        chips.append(
            f'<span class="chip warn">{gate["rows_quarantined"]} of '
            f"{gate['rows_in']} bars quarantined</span>"
        )
    if integrity["alarms"]:
        chips.append(f'<span class="chip warn">{plural(len(integrity["alarms"]), "alarm")}</span>')
    if not document["headline"]["model"]["passed_gate"]:
        chips.append('<span class="chip warn">model not proven</span>')
    if any(row["simulated"] for row in document["signals"]):
        chips.append('<span class="chip warn">simulated inputs</span>')
    if any(text.startswith("survivorship: not controlled") for text in document["caveats"]):
        chips.append('<span class="chip warn">survivorship: not controlled</span>')
    return (
        '<header><div><div class="brand">Marketlake · daily report · '
        f"{escape(hours['name'])} {hours['open_utc'][11:16]} to {hours['close_utc'][11:16]} UTC"
        f'</div><h1>{long_date(session)}</h1></div><div class="chips">{"".join(chips)}</div>'
        "</header>"
    )


def _lead(
    headline: Mapping[str, Any], integrity: Mapping[str, Any], signals: Sequence[Mapping[str, Any]]
) -> str:
    model, gate = headline["model"], integrity["gate"]
    kept_out = gate["rows_quarantined"]
    accepted = f"{gate['rows_in'] - kept_out} of {plural(gate['rows_in'], 'bar')} passed the gate"
    rest = "the rest are listed below with their reasons" if kept_out else "none was kept out"
    missing = integrity["symbols"]["missing"]
    absent = f"; no source has a bar of {escape(', '.join(missing))}" if missing else ""
    horizon = max((row["horizon_sessions"] for row in signals), default=0)
    return (
        f'<p class="lead">{accepted}, {rest}{absent}. {_sources(integrity)} '
        f"The <b>{escape(model['name'])}</b> model, trained on what was known on {model['as_of']}, "
        f"ranks {plural(len(signals), 'share')} by their return over the next "
        f"{plural(horizon, 'session')} against the universe's mean. {_edge(headline)}</p>"
    )


def _sources(integrity: Mapping[str, Any]) -> str:
    """Return how many sources answered, which did not, and what of theirs was not believed."""
    sources, kept_out = integrity["sources"], integrity["gate"]["source_rows_quarantined"]
    silent = [item["source"] for item in sources if item["outcome"] != "answered"]
    without = f", not {escape(', '.join(silent))}" if silent else ""
    refused = f"; {kept_out} of their rows had no vote" if kept_out else ""
    answered = len(sources) - len(silent)
    return f"{answered} of {plural(len(sources), 'source')} answered{without}{refused}."


def _edge(headline: Mapping[str, Any]) -> str:
    """Return what the out-of-fold figures do and do not support, in words."""
    accuracy, rank_ic = headline["validation"]["accuracy"], headline["validation"]["rank_ic"]
    base_rate = headline["validation"]["base_rate"]["value"]
    if accuracy["low"] > base_rate:
        hit = "The interval of its hit rate lies above the base rate"
    elif accuracy["high"] < base_rate:
        hit = "<b>The interval of its hit rate lies below the base rate</b>"
    else:
        hit = "<b>Its hit rate cannot be told from the base rate</b>"
    ranking = (
        "its ranking is better than chance at the 95 % level"
        if rank_ic["low"] > 0
        else "<b>its ranking cannot be told from chance</b>"
    )
    return f"{hit}, and {ranking}."


def _tiles(
    headline: Mapping[str, Any], risk: Mapping[str, Any], signals: Sequence[Mapping[str, Any]]
) -> str:
    book, n = risk["book"], risk.get("n", {})
    return (
        '<section class="tiles">'
        + _accuracy_tile(headline["validation"])
        + _rank_ic_tile(headline["validation"])
        + tile(
            "Value at risk, 1 day, 95 %",
            f"{number(book['var_95_pct'])} <small>%</small>",
            f"{number(book['var_95_usd'], 0)} USD of the reference book · expected shortfall "
            f"{number(book['cvar_95_pct'])} % · n = {number(n.get('var_95_pct'), 0)} sessions",
        )
        + tile(
            "Volatility, annual",
            f"{number(book['volatility_annual_pct'], 1)} <small>%</small>",
            f"beta {number(book['beta'])} · deepest drawdown "
            f"{number(book['max_drawdown_pct'], 1)} % of the window · "
            f"n = {number(n.get('volatility_annual_pct'), 0)} sessions",
        )
        + "</section>"
    )


def _accuracy_tile(validation: Mapping[str, Any]) -> str:
    accuracy, base_rate = validation["accuracy"], validation["base_rate"]["value"]
    reach = max(abs(accuracy["low"] - base_rate), abs(accuracy["high"] - base_rate), 0.02) * 1.15
    return tile(
        "Hit rate, out of fold",
        f"{number(100 * accuracy['value'], 1)} <small>%</small>",
        f"95 % interval {number(100 * accuracy['low'], 1)} to "
        f"{number(100 * accuracy['high'], 1)} % · {_KEY}base rate "
        f"{percent(base_rate)} · n = {number(accuracy['n'], 0)}{_independent(accuracy)}",
        charts.interval(
            accuracy["value"],
            accuracy["low"],
            accuracy["high"],
            reference=base_rate,
            within=(base_rate - reach, base_rate + reach),
        ),
    )


def _independent(estimate: Mapping[str, Any]) -> str:
    """Return how many of the observations do not overlap, where the estimate says so."""
    count = estimate.get("n_independent")
    return "" if count is None else f" ({number(count, 0)} without overlap)"


def _rank_ic_tile(validation: Mapping[str, Any]) -> str:
    rank_ic = validation["rank_ic"]
    reach = max(abs(rank_ic["low"]), abs(rank_ic["high"]), 0.02) * 1.15
    return tile(
        "Rank IC, out of fold",
        number(rank_ic["value"], 3, signed=True),
        f"95 % interval {number(rank_ic['low'], 3, signed=True)} to "
        f"{number(rank_ic['high'], 3, signed=True)} · {_KEY}chance is 0 · "
        f"n = {plural(rank_ic['n'], 'session')}",
        charts.interval(
            rank_ic["value"],
            rank_ic["low"],
            rank_ic["high"],
            reference=0.0,
            within=(-reach, reach),
        ),
    )


def _ends(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if len(rows) <= _MOST_ROWS:
        return list(rows)
    return [*rows[: _MOST_ROWS // 2], *rows[-_MOST_ROWS // 2 :]]


def _signals(
    signals: Sequence[Mapping[str, Any]], not_predicted: Sequence[Mapping[str, Any]]
) -> str:
    largest = max((abs(row["score_bps"]) for row in signals), default=0.0)
    edges = [row[name] for row in signals for name in ("confidence_low", "confidence_high")]
    edges += [row["base_rate"] for row in signals]
    low = math.floor(min(edges, default=0.0) * 100 - 0.5) / 100
    high = math.ceil(max(edges, default=1.0) * 100 + 0.5) / 100
    rows = [
        (
            str(row["rank"]),
            escape(row["symbol"]) + (' <span class="flat">*</span>' if row["simulated"] else ""),
            f'<span class="side {row["side"]}">{_SIDE_SIGN[row["side"]]} {row["side"]}</span>',
            number(row["score_bps"], 1, signed=True),
            f'<span class="{"long" if row["score_bps"] >= 0 else "short"}">'
            f"{charts.diverging_bar(row['score_bps'], largest=largest)}</span>",
            f"{percent(row['confidence'])} <small>"
            + DASH.join(number(100 * row[f"confidence_{end}"], 1) for end in ("low", "high"))
            + "</small>",
            charts.interval(
                row["confidence"],
                row["confidence_low"],
                row["confidence_high"],
                reference=row["base_rate"],
                within=(low, high),
            ),
            number(row["confidence_n"], 0),
            percent(row["probability_right"]),
        )
        for row in _ends(signals)
    ]
    head = (
        ("#", "n wide"),
        ("Symbol", ""),
        ("Side", ""),
        ("Score, bps", "n"),
        ("", "wide"),
        ("Hit rate", "n"),
        (f"{percent(low, 0)} {DASH} {percent(high, 0)}", "scale"),
        ("n", "n wide"),
        ("P(right)", "n"),
    )
    sides = [row["side"] for row in signals]
    counts = ", ".join(f"{sides.count(side)} {side}" for side in _SIDE_SIGN)
    starred = (
        " <b>*</b> an input of this row was simulated."
        if any(row["simulated"] for row in signals)
        else ""
    )
    if len(signals) > _MOST_ROWS:
        starred += f" Shown: the {_MOST_ROWS // 2} highest and lowest scores."
    without = "; ".join(f"{row['symbol']} ({row['reason']})" for row in not_predicted)
    left_out = f'<p class="note">Without a signal: {escape(without)}.</p>' if without else ""
    return (
        f'<section><h2>Signals</h2><p class="note">{counts}. Score: predicted return above the '
        "universe's mean. Hit rate: how often out-of-fold scores this strong had the right sign, "
        f"with its 95 % interval; {_KEY}base rate. P(right): a second model's word on the side."
        f"{starred}</p>"
        f"{table(head, rows, row_headers=1)}{left_out}</section>"
    )


def _labelled(name: str, value: object) -> tuple[str, str]:
    """Return (label, text) of a measure whose name carries its unit."""
    suffix = next((suffix for suffix in _UNITS if name.endswith(suffix)), "")
    unit = _UNITS.get(suffix, "")
    label = name.removesuffix(suffix).replace("_", " ")
    if value is None or isinstance(value, bool):
        return label, {True: "yes", False: "no", None: NOT_KNOWN}[value]
    if isinstance(value, int):
        return label, number(value, 0) + unit
    if isinstance(value, float):
        return label, number(value, 2 if unit else 4) + unit
    return label, f"{value}"


def _flat(values: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    """Return the (label, text) pairs of a nested mapping; lists are left out."""
    pairs: list[tuple[str, str]] = []
    # Sorted, so that the page does not depend on the order of a document's members.
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping):
            pairs.extend(_flat(value, f"{path}{name.replace('_', ' ')}: "))
        elif not isinstance(value, list | tuple):
            label, text = _labelled(name, value)
            full = path + label
            pairs.append((full[:1].upper() + full[1:], text))
    return pairs


def _definitions(pairs: Iterable[tuple[str, str]]) -> str:
    return (
        "<dl>"
        + "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in pairs)
        + "</dl>"
    )


def _regime(regime: Mapping[str, Any]) -> str:
    history = regime["history"]
    strip = ""
    if history:
        cells = "".join(
            f'<i class="{escape(item["regime"])}" title="{escape(item["session"])} '
            f'{escape(item["regime"])}"></i>'
            for item in history
        )
        strip = (
            f"<h3>Last {plural(len(history), 'session')}, newest right</h3>"
            f'<div class="history" role="img" aria-label="regimes of the last sessions">{cells}'
            '</div><div class="legend"><span class="bull"><i></i>bull</span>'
            '<span><i></i>sideways</span><span class="bear"><i></i>bear</span></div>'
        )
    return (
        "<section><h2>Market regime</h2>"
        f'<p class="state">{escape(regime["regime"].capitalize())} '
        f'<span class="flat">· volatility {escape(regime["volatility_state"])}</span></p>'
        f"{_definitions(_flat(regime['evidence']))}{strip}"
        f'<p class="note" style="margin:12px 0 0">{escape(regime["rule"])}</p></section>'
    )


def _by_name(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return {name: {measure: value}} of rows (name, measure, value)."""
    table: dict[str, dict[str, float]] = {}
    for row in rows:
        table.setdefault(row["name"], {})[row["measure"]] = row["value"]
    return table


def _sectors(sectors: Sequence[Mapping[str, Any]]) -> str:
    weights = {name: row["weight_pct"] for name, row in _by_name(sectors).items()}
    largest = max(weights.values(), default=0.0)
    rows = [
        (escape(name), charts.bar(weight, largest=largest), f"{number(weight, 1)} %")
        for name, weight in sorted(weights.items(), key=lambda item: (-item[1], item[0]))
    ]
    return (
        "<section><h2>Sector weights</h2>"
        + table((("Sector", ""), ("", ""), ("Weight", "n")), rows)
        + "</section>"
    )


def _book(every_return: Sequence[Mapping[str, Any]]) -> str:
    returns = [row for row in every_return if row["book_return"] is not None]
    if len(returns) < 2:
        return "<section><h2>Reference book</h2><p>Too few returns for a curve.</p></section>"
    sessions = [date.fromisoformat(row["session"]) for row in returns]
    growth = list(accumulate((1.0 + row["book_return"] for row in returns), lambda a, b: a * b))
    peaks = list(accumulate(growth, max, initial=1.0))[1:]
    drawdown = [100.0 * (value / peak - 1.0) for value, peak in zip(growth, peaks, strict=True)]
    total = 100.0 * (growth[-1] - 1.0)
    worst = min(range(len(drawdown)), key=drawdown.__getitem__)
    summary = (
        f"{number(total, 1, signed=True)} % from {sessions[0].isoformat()} to "
        f"{sessions[-1].isoformat()}; deepest drawdown {number(drawdown[worst], 1)} % on "
        f"{sessions[worst].isoformat()}; now {number(drawdown[-1], 1)} %"
    )
    return (
        f"<section><h2>Reference book, last {plural(len(returns), 'session')}</h2>"
        f'<p class="note">{summary}. Today\'s members held '
        "at equal weight each session, before costs: a yardstick of risk, not a track record.</p>"
        "<h3>Growth of 100</h3>"
        + charts.line_chart(
            sessions,
            [100.0 * value for value in growth],
            label=f"Growth of 100: {summary}",
            format_tick=_short(""),
            base=100.0,
            tone="book",
        )
        + "<h3>Drawdown</h3>"
        + charts.line_chart(
            sessions,
            drawdown,
            label=f"Drawdown: {summary}",
            format_tick=_short(" %"),
            base=0.0,
            tone="loss",
        ).replace('class="chart"', 'class="chart low"', 1)
        + "</section>"
    )


def _short(unit: str) -> Callable[[float], str]:
    def text(value: float) -> str:
        digits = 0 if abs(value - round(value)) < 1e-9 else 1
        return number(value, digits) + unit

    return text


def _members(symbols: Sequence[Mapping[str, Any]]) -> str:
    members = _by_name(symbols)
    parts = {name: row.get("contribution_to_volatility_pct") for name, row in members.items()}
    order = sorted(members, key=lambda name: (-(parts[name] or 0.0), name))
    largest = max((abs(part) for part in parts.values() if part is not None), default=0.0)
    rows = [
        (
            escape(name),
            f"{number(members[name].get('weight_pct'), 1)} %",
            f"{number(members[name].get('volatility_annual_pct'), 1)} %",
            number(members[name].get("beta")),
            f"{number(parts[name], 1)} %",
            charts.bar(parts[name] or 0.0, largest=largest),
        )
        for name in order[:_MOST_ROWS]
    ]
    head = (
        ("Symbol", ""),
        ("Weight", "n"),
        ("Volatility", "n wide"),
        ("Beta", "n"),
        ("Share of risk", "n"),
        ("", ""),
    )
    return (
        '<section><h2>Where the risk comes from</h2><p class="note">Contribution of each holding '
        "to the book's volatility; the shares add up to 100 %.</p>"
        f"{table(head, rows)}</section>"
    )


def _book_measures(risk: Mapping[str, Any]) -> str:
    book, n = risk["book"], risk.get("n", {})
    rows = []
    for measure, label in _BOOK_ROWS:
        unit = " %" if measure.endswith("_pct") else ""
        rows.append(
            (
                label,
                f"{number(book.get(measure), 3 if measure.endswith('hhi') else 2)}{unit}",
                number(n.get(measure), 0),
            )
        )
    usd = number(book.get("var_95_usd"), 0)
    return (
        "<section><h2>Book measures</h2>"
        '<p class="note">Historical simulation: quantiles of the window\'s own daily returns. '
        f"95 % value at risk is {usd} USD of the reference value.</p>"
        + table((("Measure", ""), ("Value", "n"), ("n", "n")), rows)
        + "</section>"
    )


def _integrity(integrity: Mapping[str, Any]) -> str:
    gate, symbols = integrity["gate"], integrity["symbols"]
    quarantined = [
        (
            escape(row["symbol"]),
            escape(row["source"]),
            f"<code>{escape(row['check'])}</code><br>{escape(row['reason'])}",
        )
        for row in integrity["quarantine"]
    ]
    alarms = [
        (
            escape(row["symbol"]),
            escape(row["source"]),
            f"<b>{escape(row['kind'].replace('_', ' '))}</b> ({escape(row['severity'])})<br>"
            f"{escape(row['detail'])}",
            _measured(row),
        )
        for row in integrity["alarms"][:_MOST_ROWS]
    ]
    kept_out = (
        table((("Symbol", ""), ("Source", ""), ("Failed check and why it is one", "")), quarantined)
        if quarantined
        else "<p>No row was kept out.</p>"
    )
    unusual = (
        table((("Symbol", ""), ("Source", ""), ("What", ""), ("Measured", "n")), alarms)
        if alarms
        else "<p>No alarm.</p>"
    )
    findings = sum(item["findings"] for item in integrity["anomalies"].values())
    return (
        "<section><h2>Gate, quarantine and anomalies</h2>"
        f'<p class="note">Great Expectations is the gate of record. Verdict '
        f"<b>{escape(gate['verdict'])}</b>: {plural(gate['rows_in'], 'candidate row')}, "
        f"{gate['rows_quarantined']} quarantined; {symbols['accepted']} of "
        f"{plural(symbols['expected'], 'expected symbol')} accepted.</p>"
        f"<h3>Kept out</h3>{kept_out}<h3>Alarms</h3>{unusual}"
        f'<p class="note">{plural(len(integrity["alarms"]), "alarm")} of '
        f"{plural(findings, 'finding')}. How the sources agree, price by price, gaps and repairs: "
        f"the integrity page, <code>reports/integrity_{integrity['session'].replace('-', '')}.html"
        "</code>.</p></section>"
    )


def _measured(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return ""
    limit = f"<br>limit {number(row['limit'], 1)}" if row["limit"] is not None else ""
    return number(row["value"], 1, signed=True) + limit


def _hash(value: str) -> str:
    return f'<code class="hash">{value[:12]}<span class="rest">{value[12:]}</span></code>'


def _inputs(inputs: Sequence[Mapping[str, Any]], model: Mapping[str, Any]) -> str:
    rows = [
        (
            f"<code>{escape(row['contract'])}</code>",
            escape(row["partition"]),
            _hash(row["sha256"]),
        )
        for row in inputs
    ]
    head = (("Artifact", ""), ("Partition", "wide"), ("SHA-256 of its content", ""))
    return (
        '<section><h2>What this page was made from</h2><p class="note">Follow any of them back to '
        "the vendor's bytes with <code>marketlake trace</code>. Model "
        f"<b>{escape(model['name'])}</b>, document {_hash(model['sha256'])}, trained as of "
        f"{model['as_of']}, champion from {model['effective_from']}; "
        f"{'proven' if model['passed_gate'] else 'not proven'}: {escape(model['reason'])}."
        f"</p>{table(head, rows)}</section>"
    )
