"""The integrity page: may this session's data be trusted, and what speaks against it?

One self-contained HTML file made from the integrity report and the source comparison alone. It
shows what is unusual, never every symbol: a session of 500 fits on it as one of 20 does. The same
documents give the same bytes. What does not belong here: detecting, comparing or repairing.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from html import escape
from itertools import groupby
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

_REPORT = "out_data_validation__daily_integrity_report"
_COMPARISON = "out_data_validation__source_comparison"
_MOST_ROWS = 40
"""Longest table of the page; the rest is counted, and is in the artifacts."""
_MOST_NAMES = 8
_OUTCOME_SIGN = {
    "answered": '<span class="side long">✓ answered</span>',
    "dropped": '<span class="side bad">✗ dropped</span>',
    "not_configured": f'<span class="side flat">{DASH} not configured</span>',
}
_SEVERITY_TONE = {"critical": "bad", "warning": "warn"}
_ABSENCES = {
    "missing_bar": ("M", "missing", "the exchange was open and the source has no bar"),
    "halted": ("H", "halted", "trading in it was halted"),
    "not_yet_listed": ("N", "early", "not yet listed"),
    "delisted": ("D", "gone", "delisted"),
}
_OTHER_ABSENCE = ("?", "gone", "another reason")
_NO_EVIDENCE = "agreement here is not evidence"
# The newest sessions matter most: a screen too narrow for the calendar starts at its right end.
_STYLE = (
    STYLE
    + """
.verdict{font-size:23px;line-height:1.3;font-weight:650;letter-spacing:-.01em;margin:18px 0 2px}
.verdict+.lead{margin-top:4px}
.good{color:var(--good)}.warn{color:var(--warn)}.bad{color:var(--bad)}
.reason{color:var(--soft);font-size:13px;overflow-wrap:anywhere}
.why{padding-left:18px}thead .why{white-space:normal}
.repairs td code{white-space:normal;overflow-wrap:anywhere}
section>p:last-child{margin-bottom:0}
.gaps{direction:rtl;overflow-x:auto;margin:10px -4px 12px}
.gaps table{direction:ltr;table-layout:fixed;border-collapse:separate;border-spacing:1px;
min-width:820px}
.gaps th,.gaps td{padding:0;border:0;height:17px;text-align:center;font-size:11px;line-height:17px}
.gaps td{background:var(--paper);overflow:hidden}
.gaps .name{position:sticky;left:0;width:200px;padding:0 8px 0 4px;background:var(--card);
text-align:left;font-size:13px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.gaps small{font-size:12px;font-weight:400;color:var(--soft)}
.gaps thead th{text-align:left;overflow:hidden}
.gaps .week{font-weight:400;border-left:1px solid var(--rule);padding-left:2px}
.gaps .missing,.gaps .halted,.gaps .early,.gaps .gone,.legend b{font-weight:700;color:var(--card);
-webkit-print-color-adjust:exact;print-color-adjust:exact}
.legend b{display:inline-block;width:17px;text-align:center;border-radius:2px;margin-right:5px;
font-size:11px;line-height:17px}
.gaps .missing,.legend .missing{background:var(--bad)}
.gaps .halted,.legend .halted{background:var(--warn)}
.gaps .early,.legend .early{background:var(--blue)}
.gaps .gone,.legend .gone{background:var(--soft)}
.bar i{-webkit-print-color-adjust:exact;print-color-adjust:exact}
.bar{min-width:70px}
.bar::before{content:"";position:absolute;inset:2px 0;border-radius:2px;background:var(--rule);
opacity:.6}
@media(max-width:560px){.verdict{font-size:20px}thead th.n,.why .side{white-space:normal}
.gaps .name{width:104px}.gaps tbody .name{line-height:15px}.why{padding-left:10px}
.gaps td,.gaps tbody th{height:32px}
.gaps tbody small{display:block;overflow:hidden;text-overflow:ellipsis}}
@media print{.gaps table{min-width:0}.gaps .name{width:130px;font-size:9px}
.gaps small{font-size:8px}.gaps td,.gaps th{font-size:8px}section{break-inside:auto}
tr{break-inside:avoid}table{font-size:11px}thead th,tbody th{font-size:11px;white-space:normal}
th,td{padding:3px 4px}.reason{font-size:11px}.bar{min-width:40px}}
"""
)


def render(report: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    """Return the page of one session's integrity report and source comparison as HTML.

    Raises
    ------
    ContractViolation
        When a member that the page shows is not in its document, or the two are of two sessions.
    """
    if report.get("session") != comparison.get("session"):
        raise ContractViolation(
            expected=f"a source comparison of {report.get('session')}",
            was=f"one of {comparison.get('session')}",
            where=_COMPARISON,
            todo="pass the two documents of one session",
        )
    try:
        session = date.fromisoformat(report["session"])
        body = "\n".join(
            [
                _header(session, report),
                _verdict(report, comparison),
                caveats(list(dict.fromkeys([*report["caveats"], *comparison["caveats"]]))),
                _tiles(report, comparison),
                _sources(report),
                _discrepancies(report["sources"], comparison),
                _gaps(report["gaps"]),
                '<div class="grid2"><div>',
                _alarms(report["alarms"]),
                _repairs(report["repairs"]),
                "</div><div>",
                _worst_symbols(report["worst_symbols"], len(report["gaps"]["sessions"])),
                _kept_out(report),
                _anomalies(report["anomalies"]),
                "</div></div>",
            ]
        )
    except KeyError as error:
        raise ContractViolation(
            expected=f"documents with the member {error}",
            was="a document without it",
            where=f"{_REPORT}, {_COMPARISON}",
            todo="publish the session again with validate_market_data",
        ) from None
    return page(
        f"Marketlake · data integrity · {session.isoformat()}",
        body,
        footer=f"Made from <code>{_REPORT}</code> and <code>{_COMPARISON}</code> of this session "
        "alone: the same contents give the same bytes. Every value of every symbol is in them.",
        style=_STYLE,
    )


def _words(kind: str) -> str:
    return escape(kind.replace("_", " "))


def _named(names: Sequence[str]) -> str:
    """Return the names, or the first of them and how many more there are."""
    shown = ", ".join(escape(name) for name in names[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return f"{shown} and {number(more, 0)} more" if more > 0 else shown


def _usd(value: float | None) -> str:
    return number(value, 2 if value is None or abs(value) >= 10 else 4)


def _cut(shown: int, every: int, artifact: str) -> str:
    if shown == every:
        return ""
    return (
        f'<p class="note">Shown: {number(shown, 0)} of {number(every, 0)}; all of them are in '
        f"<code>{artifact}</code>.</p>"
    )


def _of_outcome(report: Mapping[str, Any], outcome: str) -> list[str]:
    return [row["source"] for row in report["sources"] if row["outcome"] == outcome]


def _no_evidence(report: Mapping[str, Any]) -> bool:
    return any(_NO_EVIDENCE in text for text in report["caveats"])


def _asked(report: Mapping[str, Any]) -> str:
    answered, dropped = _of_outcome(report, "answered"), _of_outcome(report, "dropped")
    return f"{len(answered)} of {plural(len(answered) + len(dropped), 'source')} answered"


def _header(session: date, report: Mapping[str, Any]) -> str:
    hours, passed = report["calendar"], report["gate"]["verdict"] == "passed"
    chips = [
        f'<span class="chip {"good" if passed else "bad"}">'
        f"{'✓' if passed else '✗'} gate {escape(report['gate']['verdict'])}</span>"
    ]
    if hours["half_day"]:
        chips.append('<span class="chip">half day</span>')
    if _no_evidence(report):
        chips.append('<span class="chip warn">agreement is not evidence</span>')
    return (
        '<header><div><div class="brand">Marketlake · data integrity · '
        f"{escape(hours['name'])} {escape(hours['open_utc'][11:16])} to "
        f"{escape(hours['close_utc'][11:16])} UTC</div><h1>{long_date(session)}</h1></div>"
        f'<div class="chips">{"".join(chips)}</div></header>'
    )


def _verdict(report: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    symbols, alarms = report["symbols"], report["alarms"]
    against = _against(report, comparison["comparisons"])
    if report["gate"]["verdict"] != "passed":
        tone, words = "bad", "✗ Do not use it: the gate refused this session."
    elif against:
        tone, words = "warn", f"! Use it with care: {'; '.join(against)}."
    else:
        tone, words = "good", "✓ Nothing found that speaks against it."
    quarantined = len(symbols["quarantined"])
    return (
        f'<p class="verdict {tone}">{words}</p><p class="lead">'
        f"{number(symbols['accepted'], 0)} of {plural(symbols['expected'], 'symbol')} accepted, "
        f"{_asked(report)}, {plural(len(alarms), 'alarm') if alarms else 'no alarm'}, "
        f"{plural(quarantined, 'symbol') if quarantined else 'none'} quarantined; "
        f"{_apart(comparison)}.</p>"
    )


def _apart(comparison: Mapping[str, Any]) -> str:
    if comparison["discrepancies"]:
        return f"sources apart in {plural(len(comparison['discrepancies']), 'place')}"
    if any(row["n_sources"] > 1 for row in comparison["comparisons"]):
        return "sources nowhere apart"
    return "no source to compare with"


def _against(report: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what speaks against a session that passed the gate, the gravest first."""
    symbols = report["symbols"]
    critical = sum(row["severity"] == "critical" for row in report["alarms"])
    dropped = _of_outcome(report, "dropped")
    faults = []
    if symbols["missing"]:
        faults.append(f"no bar of {_named(symbols['missing'])}")
    if symbols["quarantined"]:
        faults.append(f"{_named(symbols['quarantined'])} quarantined")
    if dropped:
        faults.append(f"{_named(dropped)} dropped")
    if critical:
        faults.append(plural(critical, "critical alarm"))
    elif report["alarms"]:
        faults.append(plural(len(report["alarms"]), "alarm"))
    split = [row["symbol"] for row in comparisons if row["n_agreed"] < 2 <= row["n_sources"]]
    if split:
        faults.append(f"no two sources agree on the close of {_named(sorted(split))}")
    if len(_of_outcome(report, "answered")) < 2:
        faults.append("fewer than two sources, so nothing confirms the prices")
    return faults


def _tiles(report: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    symbols, alarms = report["symbols"], report["alarms"]
    critical = sum(row["severity"] == "critical" for row in alarms)
    findings = sum(row["findings"] for row in report["anomalies"].values())
    several = [row for row in comparison["comparisons"] if row["n_sources"] > 1]
    united = sum(row["n_agreed"] == row["n_sources"] for row in several)
    alone = len(comparison["comparisons"]) - len(several)
    not_configured = _of_outcome(report, "not_configured")
    answered, dropped = _of_outcome(report, "answered"), _of_outcome(report, "dropped")
    return (
        '<section class="tiles">'
        + tile(
            "Symbols accepted",
            _share(symbols["accepted"], symbols["expected"]),
            f"{len(symbols['missing'])} missing · {len(symbols['quarantined'])} quarantined",
        )
        + tile(
            "Sources that answered",
            _share(len(answered), len(answered) + len(dropped)),
            (f"dropped: {_named(dropped)}" if dropped else "none dropped")
            + (f" · not configured: {_named(not_configured)}" if not_configured else ""),
        )
        + tile(
            "Closes on which all agree",
            _share(united, len(several)) if several else NOT_KNOWN,
            (
                f"within {number(comparison['threshold_pct']['close_usd'])} % of the consensus"
                if several
                else "nothing to compare"
            )
            + (f" · {number(alone, 0)} with one source only" if alone else ""),
        )
        + tile(
            "Alarms",
            number(len(alarms), 0),
            f"{critical} critical · {plural(findings, 'finding')} in all",
        )
        + "</section>"
    )


def _share(part: int, whole: int) -> str:
    return f"{number(part, 0)} <small>of {number(whole, 0)}</small>"


def _sources(report: Mapping[str, Any]) -> str:
    rows = []
    for row in report["sources"]:
        agreed = row["agreed_pct"]
        configured = row["outcome"] != "not_configured"
        failures = [
            f"{number(row[name], 0)} {words}"
            for name, words in (
                ("failed", "failed"),
                ("no_bar", "without a bar"),
                ("not_asked", "not asked"),
                ("rows_quarantined", "quarantined"),
            )
            if row[name]
        ]
        why = "<br>".join(part for part in (escape(row["reason"]), ", ".join(failures)) if part)
        rows.append(
            (
                escape(row["source"]),
                "" if agreed is None else charts.bar(agreed, largest=100.0),
                DASH if agreed is None else f"{number(agreed, 1)} %",
                DASH if row["weight"] is None else number(row["weight"]),
                f"{number(row['answered'], 0)} of {number(row['asked'], 0)}" if configured else "",
                _OUTCOME_SIGN.get(row["outcome"], _words(row["outcome"]))
                + (f'<div class="reason">{why}</div>' if why else ""),
            )
        )
    head = (
        ("Source", ""),
        ("", "wide"),
        ("Closes that agree", "n"),
        ("Weight", "n"),
        ("Symbols", "n wide"),
        ("Outcome, failures, and why", "why"),
    )
    warning = f" <b>{_NO_EVIDENCE.capitalize()}</b>: see above." if _no_evidence(report) else ""
    return (
        '<section><h2>Source agreement</h2><p class="note">Closes that agree: share of the '
        "source's closes that are the consensus. Weight: its voice in the consensus, learned from "
        f"its errors before this session.{warning}</p>{table(head, rows)}</section>"
    )


def _discrepancies(sources: Sequence[Mapping[str, Any]], comparison: Mapping[str, Any]) -> str:
    every = sorted(
        comparison["discrepancies"],
        key=lambda row: (-_furthest(row), row["symbol"], row["source"], row["kind"]),
    )
    threshold = f"{number(comparison['threshold_pct']['close_usd'])} %"
    if not every:
        compared = any(row["n_sources"] > 1 for row in comparison["comparisons"])
        nothing = (
            f"No source is apart from the consensus by more than {threshold}."
            if compared
            else "No symbol has two sources: there was nothing to compare."
        )
        return f"<section><h2>Discrepancies</h2><p>{nothing}</p></section>"
    prices = {row["symbol"]: row["prices"] for row in comparison["comparisons"]}
    shown = every[:_MOST_ROWS]
    said = [_said(row, prices) for row in shown]
    names = [
        row["source"]
        for row in sources
        if any(row["source"] in price["by_source"] for _, price in said)
    ]
    rows = []
    for row, (field, price) in zip(shown, said, strict=True):
        others = len(row["fields"]) - 1
        apart = row["apart_pct"].get(field)
        rows.append(
            (
                escape(row["symbol"]),
                f"<b>{_words(row['kind'])}</b><br>{escape(row['source'])}",
                _words(field.removesuffix("_usd"))
                + (f" <span class='flat'>+{others}</span>" if others > 0 else ""),
                DASH if apart is None else f"{number(apart, 2, signed=True)} %",
                _usd(price["consensus_usd"]),
                *(_value(price["by_source"].get(name)) for name in names),
            )
        )
    head = (
        ("Symbol", ""),
        ("Kind and source", ""),
        ("Price", "wide"),
        ("Apart", "n"),
        ("Consensus", "n"),
        *((escape(name), "n") for name in names),
    )
    kinds = sorted(Counter(row["kind"] for row in every).items(), key=lambda kind: (-kind[1], kind))
    counts = ", ".join(f"{number(count, 0)} {_words(kind)}" for kind, count in kinds)
    return (
        f'<section><h2>Discrepancies</h2><p class="note">{counts}. <b class="bad">✗</b> apart from '
        f"the consensus by more than {threshold}; of several prices the close is shown, or the one "
        f"furthest apart, in USD. {DASH} no value.</p>"
        f"{table(head, rows)}{_cut(len(shown), len(every), _COMPARISON)}</section>"
    )


def _furthest(row: Mapping[str, Any]) -> float:
    """Return the greatest distance of the row in percent, -1 for a bar that has none."""
    return max((abs(value) for value in row["apart_pct"].values() if value is not None), default=-1)


def _said(
    row: Mapping[str, Any], prices: Mapping[str, Mapping[str, Any]]
) -> tuple[str, Mapping[str, Any]]:
    """Return the field that tells a discrepancy best, and what everybody says of it."""
    apart = {name: abs(value) for name, value in row["apart_pct"].items() if value is not None}
    far = sorted(row["fields"], key=lambda name: (-apart.get(name, 0.0), name))
    field = far[0] if far and "close_usd" not in far else "close_usd"
    nothing: Mapping[str, Any] = {"consensus_usd": None, "by_source": {}}
    return field, prices.get(row["symbol"], {}).get(field, nothing)


def _value(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return f'<span class="flat">{DASH}</span>'
    text = _usd(cell["value_usd"])
    return text if cell["agreed"] else f'<b class="bad">✗ {text}</b>'


def _gaps(gaps: Mapping[str, Any]) -> str:
    sessions, series = gaps["sessions"], gaps["series"]
    span = f"last {plural(len(sessions), 'session')}"
    if not series:
        return (
            f"<section><h2>Gaps calendar, {span}</h2>"
            "<p>No series lacks a bar that it should have.</p></section>"
        )
    groups = _alike(series)
    counts = Counter(kind for row in series for kind in row["absent"].values())
    used = [absence for kind, absence in _ABSENCES.items() if kind in counts]
    used += [_OTHER_ABSENCE] * bool(counts.keys() - _ABSENCES.keys())
    legend = "".join(
        f'<span><b class="{name}">{letter}</b>{words}</span>' for letter, name, words in used
    )
    told = ", ".join(
        f"{number(count, 0)} {_words(kind)}"
        for kind, count in sorted(counts.items(), key=lambda kind: (-kind[1], kind))
    )
    lines = [
        f'<tr><th scope="row" class="name" title="{_named(symbols)}: {_named(sources)}">'
        f"{_line(symbols, sources)}</th>"
        + "".join(_day(session, absent.get(session)) for session in sessions)
        + "</tr>"
        for symbols, sources, absent in groups[:_MOST_ROWS]
    ]
    return (
        f'<section><h2>Gaps calendar, {span}</h2><p class="note">{number(len(series), 0)} series '
        f"with an absence: {told}. Newest session right; series that lack the same share a line."
        "</p>"
        f'<div class="gaps"><table><thead>{_dates(sessions)}</thead>\n'
        f"<tbody>{chr(10).join(lines)}</tbody></table></div>"
        f'<div class="legend">{legend}</div>{_cut(len(lines), len(groups), _REPORT)}</section>'
    )


def _alike(
    series: Sequence[Mapping[str, Any]],
) -> list[tuple[list[str], list[str], dict[str, str]]]:
    """Return (symbols, sources, absences) of the series that lack the same, most missing first."""
    by_symbol: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = {}
    for row in series:
        absent = tuple(sorted(row["absent"].items()))
        by_symbol.setdefault((row["symbol"], absent), []).append(row["source"])
    by_sources: dict[tuple[tuple[str, ...], tuple[tuple[str, str], ...]], list[str]] = {}
    for (symbol, absent), sources in by_symbol.items():
        by_sources.setdefault((tuple(sorted(sources)), absent), []).append(symbol)
    groups = [
        (sorted(symbols), list(sources), dict(absent))
        for (sources, absent), symbols in by_sources.items()
    ]

    def gravest(group: tuple[list[str], list[str], dict[str, str]]) -> tuple[Any, ...]:
        symbols, sources, absent = group
        missing = sum(kind == "missing_bar" for kind in absent.values())
        return -missing * len(symbols) * len(sources), -len(absent), symbols, sources, [*absent]

    return sorted(groups, key=gravest)


def _line(symbols: Sequence[str], sources: Sequence[str]) -> str:
    more = f" +{len(symbols) - 1}" if len(symbols) > 1 else ""
    whose = escape(sources[0]) if len(sources) == 1 else plural(len(sources), "source")
    return f"{escape(symbols[0])}{more} <small>{whose}</small>"


def _dates(sessions: Sequence[str]) -> str:
    """Return the calendar's head: months, and under them the day on which each week begins."""
    days = [date.fromisoformat(session) for session in sessions]
    months = [list(group) for _, group in groupby(days, lambda day: (day.year, day.month))]
    weeks = [list(group) for _, group in groupby(days, lambda day: day.isocalendar()[:2])]
    return (
        '<tr><th class="name"></th>'
        + "".join(
            f'<th colspan="{len(month)}">{month[0]:{"%B %Y" if len(month) > 7 else "%b"}}</th>'
            for month in months
        )
        + '</tr><tr><th scope="col" class="name">Symbol <small>source</small></th>'
        + "".join(f'<th colspan="{len(week)}" class="week">{week[0].day}</th>' for week in weeks)
        + "</tr>"
    )


def _day(session: str, kind: str | None) -> str:
    if kind is None:
        return "<td></td>"
    letter, name, _ = _ABSENCES.get(kind, _OTHER_ABSENCE)
    return f'<td class="{name}" title="{escape(session)} {_words(kind)}">{letter}</td>'


def _alarms(alarms: Sequence[Mapping[str, Any]]) -> str:
    if not alarms:
        return "<section><h2>Alarms</h2><p>No alarm.</p></section>"
    gravity = [*_SEVERITY_TONE]
    every = sorted(
        alarms,
        key=lambda row: (
            gravity.index(row["severity"]) if row["severity"] in gravity else len(gravity),
            row["symbol"],
            row["source"],
            row["kind"],
        ),
    )
    rows = [
        (
            escape(row["symbol"]),
            f"<b>{_words(row['kind'])}</b> of {escape(row['source'])} "
            f"({_severity(row['severity'])})<br>"
            f"{escape(row['detail'])}",
            _measured(row),
        )
        for row in every[:_MOST_ROWS]
    ]
    head = (("Symbol", ""), ("What", ""), ("Measured", "n"))
    return (
        f"<section><h2>Alarms</h2>{table(head, rows)}{_cut(len(rows), len(every), _REPORT)}"
        "</section>"
    )


def _severity(severity: str) -> str:
    return f'<span class="{_SEVERITY_TONE.get(severity, "flat")}">{escape(severity)}</span>'


def _measured(row: Mapping[str, Any]) -> str:
    """Return the value and what it was held against."""
    if row["value"] is None:
        return ""
    against = "".join(
        f"<br><span class='flat'>{name} {number(row[name], 2)}</span>"
        for name in ("expected", "limit")
        if row[name] is not None
    )
    return number(row["value"], 2) + against


def _repairs(repairs: Mapping[str, Any]) -> str:
    def order(row: Mapping[str, Any]) -> tuple[str, str, str]:
        return row["symbol"], row["source"], row["proposal"]

    proposals, in_force = (sorted(repairs[part], key=order) for part in ("proposals", "in_force"))
    proposed = [
        (
            escape(row["symbol"]),
            f"<b>{_words(row['rule'])}</b> of {escape(row['source'])}, "
            f"{plural(row['cells'], 'cell')}, confidence {percent(row['confidence'], 0)}<br>"
            f"{escape(row['evidence'])}<br>"
            # Quoted, since somebody pastes it into a shell.
            f"<code>marketlake repair apply {escape(shlex.quote(row['proposal']))}</code>",
        )
        for row in proposals[:_MOST_ROWS]
    ]
    applied = [
        (
            escape(row["symbol"]),
            f"<code>{escape(row['proposal'])}</code> of {escape(row['source'])}<br>"
            f"applied by {escape(row['applied_by'])}: {escape(row['reason'])}",
        )
        for row in in_force[:_MOST_ROWS]
    ]
    return (
        '<section class="repairs"><h2>Repairs</h2><p class="note">A proposal changes nothing until '
        "a person applies it, and raw data is never changed.</p>"
        "<h3>Proposed</h3>"
        + (
            table((("Symbol", ""), ("What, and how to apply it", "")), proposed)
            if proposed
            else "<p>No proposal.</p>"
        )
        + _cut(len(proposed), len(proposals), _REPORT)
        + "<h3>In force</h3>"
        + (
            table((("Symbol", ""), ("Proposal, by whom and why", "")), applied)
            if applied
            else "<p>No repair is in force.</p>"
        )
        + _cut(len(applied), len(in_force), _REPORT)
        + "</section>"
    )


def _worst_symbols(worst: Sequence[Mapping[str, Any]], sessions: int) -> str:
    title = f"<section><h2>Worst symbols, last {plural(sessions, 'session')}</h2>"
    if not worst:
        return f"{title}<p>No symbol had an alarm or a disagreement.</p></section>"
    totals = [row["alarms"] + row["disagreements"] for row in worst]
    rows = [
        (
            escape(row["symbol"]),
            charts.bar(total, largest=max(totals)),
            number(row["alarms"], 0),
            number(row["disagreements"], 0),
            f'<span class="flat">{", ".join(_words(kind) for kind in row["kinds"])}</span>',
        )
        for row, total in zip(worst, totals, strict=True)
    ]
    head = (("Symbol", ""), ("", ""), ("Alarms", "n"), ("Apart", "n"), ("Kinds", "wide"))
    return (
        f'{title}<p class="note">Bar: alarms and disagreements with the consensus together.</p>'
        f"{table(head, rows)}</section>"
    )


def _kept_out(report: Mapping[str, Any]) -> str:
    gate, symbols = report["gate"], report["symbols"]
    lists = "".join(
        f"<dt>{name}</dt><dd>{_named(sorted(symbols[part])) or 'none'}</dd>"
        for name, part in (("Symbols missing", "missing"), ("Symbols quarantined", "quarantined"))
    )
    return (
        "<section><h2>Gate</h2><dl>"
        f"<dt>Verdict</dt><dd>{escape(gate['verdict'])}</dd>"
        f"<dt>Bars of the consensus judged</dt><dd>{number(gate['rows_in'], 0)}</dd>"
        f"<dt>Of these quarantined</dt><dd>{number(gate['rows_quarantined'], 0)}</dd>"
        f"<dt>Sources' bars quarantined before</dt>"
        f"<dd>{number(gate['source_rows_quarantined'], 0)}</dd>{lists}</dl></section>"
    )


def _anomalies(anomalies: Mapping[str, Mapping[str, int]]) -> str:
    if not anomalies:
        return "<section><h2>Findings by kind</h2><p>Nothing unusual.</p></section>"
    every = sorted(
        anomalies.items(), key=lambda item: (-item[1]["alarms"], -item[1]["findings"], item[0])
    )
    rows = [
        (_words(kind), number(row["findings"], 0), number(row["alarms"], 0)) for kind, row in every
    ]
    head = (("Kind", ""), ("Findings", "n"), ("Of these alarms", "n"))
    return f"<section><h2>Findings by kind</h2>{table(head, rows)}</section>"
