"""The training page: how good the ensemble trained as of a session is, and what speaks against it.

One self-contained HTML file made from the training's document alone, for a quant, who wants every
figure with its interval and what it is to be compared with, and for a compliance officer, who wants
the verdict, its limits and the hashes. What failed comes first. The same document gives the same
bytes. What does not belong here: judging, and computing any figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from html import escape
from typing import Any

from marketlake.domain.reporting import charts
from marketlake.domain.reporting.markup import (
    DASH,
    MINUS,
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

_ENSEMBLE = "ensemble"
_MOST_IMPORTANT, _MOST_DRIFTED = 20, 15
_SOME_DRIFT, _MUCH_DRIFT = 0.1, 0.25
_NULLS = {
    "shuffled_labels": ("Labels dealt out anew within each session", "interval holds 0"),
    "random_walk_prices": ("Prices that walk at random", "interval holds 0"),
    "planted_leak": ("A feature that knows the answer", "found at once: far above 0"),
}
_PORTFOLIOS = {"long_short": "Long-short", "long_only": "Long-only"}
_STYLE = (
    STYLE
    + """
.verdict{font-size:21px;line-height:1.35;font-weight:650;letter-spacing:-.01em;margin:18px 0 2px}
.verdict+.lead{margin-top:6px}
.good{color:var(--good)}.warn{color:var(--warn)}.bad{color:var(--bad)}
tbody th small{display:block;font-size:12px;line-height:1.25;font-weight:400;color:var(--soft)}
section>p:last-child{margin-bottom:0}
.models thead th,tbody th{white-space:normal}
.wide .whisker{min-width:120px}
.chart{margin-bottom:38px}
.chart .dashed{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:6 5;opacity:.7}
.chart .range{stroke:var(--blue);stroke-width:6;opacity:.35}
.chart .dot{position:absolute;width:9px;height:9px;margin:-4.5px 0 0 -4.5px;border-radius:50%;
background:var(--blue)}
.dash{display:inline-block;width:17px;border-top:2px dashed var(--ink);opacity:.7;
margin:0 5px 4px 1px}
.bar i,.dot{-webkit-print-color-adjust:exact;print-color-adjust:exact}
.even{grid-template-columns:repeat(2,minmax(0,1fr))}
@media(max-width:900px){.even{grid-template-columns:minmax(0,1fr)}}
@media(max-width:560px){.verdict{font-size:18px}thead th.n{white-space:normal}}
"""
)


def render(document: Mapping[str, Any]) -> bytes:
    """Return the page of one ``core_models__model`` document as UTF-8 HTML.

    Figures by regime are left out where the document has none.

    Raises
    ------
    ContractViolation
        When a member that the page shows is not in the document.
    """
    try:
        report, validation = document["report"], document["validation"]
        ensemble = report["models"][_ENSEMBLE]
        body = "\n".join(
            [
                _header(document),
                _verdict(document["gate"]),
                _lead(document, ensemble),
                caveats(document["caveats"]),
                _tiles(ensemble, report["deflated_sharpe"]),
                '<div class="grid2">',
                _gate(document["gate"]),
                _luck(report),
                "</div>",
                _nulls(report["null_panel"]),
                _models(report["models"], report["weights"]),
                '<div class="grid2">',
                _coverage(ensemble),
                _signals(validation),
                "</div>",
                _validator(report["validator"]),
                _final(report["final_window"]),
                _groups(ensemble),
                _portfolios(report["portfolio"]),
                '<div class="grid2 even">',
                _importance(report["importance"]),
                _drift(report["drift"]),
                "</div>",
                '<div class="grid2">',
                _folds(validation),
                _trained(document),
                "</div>",
                _tuning(report["tuning"]),
                _files(document["files"]),
            ]
        )
    except KeyError as error:
        raise ContractViolation(
            expected=f"a training document with the member {error}",
            was="a document without it",
            where="core_models__model",
            todo="train again with train_models",
        ) from None
    return page(
        f"Marketlake · Training as of {escape(document['as_of'])}",
        body,
        footer="Every figure on this page is in the training's document "
        "(<code>core_models__model</code>); the page is made from it alone: the same document "
        "gives the same bytes.",
        style=_STYLE,
    ).encode()


def _header(document: Mapping[str, Any]) -> str:
    passed, window = _passed(document["gate"]), document["fit_window"]
    chips = [
        f'<span class="chip {"good" if passed else "bad"}">'
        f"{'✓ gate passed' if passed else '✗ gate not passed'}</span>",
        f'<span class="chip">{escape(document["profile"])} profile</span>',
        '<span class="chip warn">simulated inputs</span>'
        if window["simulated"]
        else '<span class="chip">no simulated input</span>',
    ]
    if any(text.startswith("survivorship: not controlled") for text in document["caveats"]):
        chips.append('<span class="chip warn">survivorship: not controlled</span>')
    return (
        '<header><div><div class="brand">Marketlake · model report</div>'
        f"<h1>Training as of {long_date(date.fromisoformat(document['as_of']))}</h1></div>"
        f'<div class="chips">{"".join(chips)}</div></header>'
    )


def _passed(checks: Sequence[Mapping[str, Any]]) -> bool:
    # A gate that checked nothing has let nothing through.
    return bool(checks) and all(one["passed"] for one in checks)


def _verdict(checks: Sequence[Mapping[str, Any]]) -> str:
    if _passed(checks):
        return f'<p class="verdict good">Proven: all {plural(len(checks), "check")} held.</p>'
    failed = [one["check"] for one in checks if not one["passed"]]
    said = f" ({escape('; '.join(failed))})" if failed else ""
    return (
        f'<p class="verdict bad">Not proven: {len(failed)} of {plural(len(checks), "check")} '
        f"failed{said}. It may predict only where nothing proven is.</p>"
    )


def _lead(document: Mapping[str, Any], ensemble: Mapping[str, Any]) -> str:
    window, horizon = document["fit_window"], document["horizon_sessions"]
    members = len(document["report"]["models"]) - 1
    return (
        f'<p class="lead">{plural(members, "model")} and their vote forecast whether a share beats '
        f"the universe's mean over the next {plural(horizon, 'session')}, fitted on "
        f"{plural(window['rows'], 'row')} of {escape(window['first_session'])} to "
        f"{escape(window['last_session'])}. Judged on the "
        f"{plural(ensemble['n'], 'row')} of {plural(ensemble['sessions'], 'session')} out of fold: "
        f"{_edge(ensemble)}</p>"
    )


def _edge(ensemble: Mapping[str, Any]) -> str:
    """Return what the vote's out-of-fold figures do and do not support, in words."""
    accuracy, rank_ic, base_rate = (ensemble[key] for key in ("accuracy", "rank_ic", "base_rate"))
    if accuracy["low"] > base_rate:
        direction = "the interval of its accuracy lies above the base rate"
    elif accuracy["high"] < base_rate:
        direction = "<b>the interval of its accuracy lies below the base rate</b>"
    else:
        direction = "<b>its accuracy cannot be told from the base rate</b>"
    if rank_ic["low"] > 0:
        ranking = "its ranking is better than chance at the 95 % level"
    elif rank_ic["high"] < 0:
        ranking = "<b>its ranking is worse than chance at the 95 % level</b>"
    else:
        ranking = "<b>its ranking cannot be told from chance</b>"
    said = f"{direction}, and {ranking}."
    up = ensemble["share_forecast_up"]
    if up in (0, 1):
        # Then accuracy equals a class's share by construction, whatever the interval says.
        way = "above" if up else "below"
        said += (
            f" <b>It forecast {way} the mean on every row: its accuracy is how often that came.</b>"
        )
    return said


def _tiles(ensemble: Mapping[str, Any], sharpe: Mapping[str, Any]) -> str:
    accuracy, rank_ic, base_rate = (ensemble[key] for key in ("accuracy", "rank_ic", "base_rate"))
    brier, n = ensemble["brier"], ensemble["n"]
    return (
        '<section class="tiles">'
        + tile(
            "Accuracy of the ensemble, out of fold",
            f"{number(100 * accuracy['value'], 1)} <small>%</small>",
            f"95 % interval {_between(accuracy, 1, scale=100)} % · "
            f"{_mark(f'base rate {percent(base_rate)}')} · n = {number(n, 0)} · above the mean "
            f"forecast on {percent(ensemble['share_forecast_up'])} of rows",
            _whisker(accuracy, reference=base_rate, reach=0.02),
        )
        + tile(
            "Rank IC of the ensemble, out of fold",
            number(rank_ic["value"], 3, signed=True),
            f"95 % interval {_between(rank_ic, 3, signed=True)} · {_mark('chance is 0')} · "
            f"n = {plural(ensemble['sessions'], 'session')}",
            _whisker(rank_ic, reference=0.0, reach=0.02),
        )
        + tile(
            "Calibration error",
            number(ensemble["calibration_error"], 4),
            f"expected; 0 is best, and a constant forecast can reach it · Brier score "
            f"{number(brier['value'], 4)}, 95 % interval {_between(brier, 4)}; a coin's is "
            f"0.2500 · n = {number(n, 0)}",
        )
        + tile(
            "Deflated Sharpe ratio",
            number(sharpe["value"], 3),
            "chance that the ensemble's Sharpe ratio is above what luck gives the best of "
            f"{plural(sharpe['trials'], 'trial')} without skill; before costs",
        )
        + "</section>"
    )


def _mark(of: str) -> str:
    """Return what the tick of a whisker stands for, with the tick."""
    return f'<span class="nobr"><i class="key"></i>{of}</span>'


def _between(
    estimate: Mapping[str, float], digits: int, *, scale: float = 1.0, signed: bool = False
) -> str:
    low, high = (number(scale * estimate[end], digits, signed=signed) for end in ("low", "high"))
    return f"{low} to {high}"


def _whisker(estimate: Mapping[str, float], *, reference: float, reach: float) -> str:
    """Return the interval around a reference in the middle, at least ``reach`` to either side."""
    far = 1.15 * max(reach, *(abs(estimate[end] - reference) for end in ("low", "high")))
    return charts.interval(
        estimate["value"],
        estimate["low"],
        estimate["high"],
        reference=reference,
        within=(reference - far, reference + far),
    )


def _sign(held: bool, yes: str, no: str) -> str:
    return f'<span class="side {"good" if held else "bad"}">{"✓" if held else "✗"} ' + (
        f"{yes if held else no}</span>"
    )


def _gate(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            escape(one["check"]),
            number(one["value"], 4),
            f"{escape(one['must_be'])} {number(one['limit'], 2)}",
            _sign(one["passed"], "held", "failed"),
        )
        for one in checks
    ]
    head = (("Check", ""), ("Value", "n"), ("Must be", "n"), ("", "n"))
    return (
        '<section><h2>The gate</h2><p class="note">Limits stood before the figures were seen. One '
        "failed check keeps a training unproven. A check that is yes or no counts as 1 or 0.</p>"
        f"{table(head, rows)}</section>"
    )


def _luck(report: Mapping[str, Any]) -> str:
    overfitting, conformal = report["backtest_overfitting"], report["conformal"]
    sharpe = report["deflated_sharpe"]
    promised = 1.0 - conformal["alpha"]
    pairs = (
        ("Trials counted", number(sharpe["trials"], 0)),
        (
            f"Best of {number(sharpe['compared'], 0)} by Sharpe ratio, before costs",
            escape(sharpe["best"]),
        ),
        ("Probability of backtest overfitting", percent(overfitting["pbo"])),
        ("Chosen by backtest, lost out of sample", percent(overfitting["loss"])),
        ("Blocks of sessions, half chosen on", number(overfitting["blocks"], 0)),
        ("Conformal sets that held what came", percent(conformal["coverage"])),
        ("Promised: 1 less alpha", percent(promised)),
    )
    short = conformal["coverage"] < promised
    reading = (
        '<b class="bad">Fewer sets held what came than was promised.</b>'
        if short
        else "Sets held what came at least as often as promised; a set that names both directions "
        "always does."
    )
    return (
        '<section><h2>Chosen by luck?</h2><p class="note">Trials: each configuration once, with '
        "its seeds and inputs, earlier trainings' among them. Overfitting: how often the best "
        "model of "
        "one half of the sessions is at or below the median in the other half; "
        f"{percent(_at_or_below_median(sharpe['compared']), 0)} is what choosing among "
        f"{number(sharpe['compared'], 0)} equals gives.</p>"
        f'{_definitions(pairs)}<p class="note" style="margin:12px 0 0">{reading}</p></section>'
    )


def _at_or_below_median(n: int) -> float:
    """Return the share of n ranks that are not above their median."""
    return (n + 1) // 2 / n


def _definitions(pairs: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{label}</dt><dd>{text}</dd>" for label, text in pairs) + "</dl>"


def _nulls(panel: Mapping[str, Any]) -> str:
    rows = []
    for name, (what, must) in _NULLS.items():
        if name in panel["not_run"]:
            figures = ("not run", DASH, "", _sign(False, "", "not run"))
        else:
            run = panel[name]
            figures = (
                number(run["value"], 3, signed=True),
                _between(run, 3, signed=True),
                charts.interval(
                    run["value"], run["low"], run["high"], reference=0.0, within=(-1.0, 1.0)
                ),
                _sign(run["as_it_must"], "as it must", "not as it must"),
            )
        rows.append((what, must, *figures))
    head = (
        ("Run", ""),
        ("Must show", "wide"),
        ("Rank IC", "n"),
        ("99.9 % interval", "n"),
        (f"{MINUS}1 {DASH} 1", "scale wide"),
        ("", "n"),
    )
    return (
        "<section><h2>Null panel: is anything found where nothing is?</h2>"
        '<p class="note">LightGBM alone by a short walk-forward on the same features, three times '
        "with an answer that is known. "
        f"Clean: <b>{'yes' if panel['clean'] else 'no'}</b>. "
        f"{_mark('chance is 0')}.</p>{table(head, rows)}</section>"
    )


def _in_order(models: Mapping[str, Any]) -> list[str]:
    """Return the members by name, and the ensemble after them."""
    return sorted(models, key=lambda name: (name == _ENSEMBLE, name))


def _models(models: Mapping[str, Any], weights: Mapping[str, float]) -> str:
    def cell(
        estimate: Mapping[str, float], digits: int, *, scale: float = 1.0, signed: bool = False
    ) -> str:
        return (
            number(scale * estimate["value"], digits, signed=signed)
            + f" <small>{_between(estimate, digits, scale=scale, signed=signed)}</small>"
        )

    rows = [
        (
            escape(name) + _weight(name, weights) + f" <small>n = {number(of['n'], 0)}</small>",
            cell(of["accuracy"], 1, scale=100),
            cell(of["balanced_accuracy"], 1, scale=100),
            cell(of["mcc"], 3, signed=True),
            cell(of["brier"], 4),
            number(of["calibration_error"], 4),
            cell(of["ic"], 3, signed=True),
            cell(of["rank_ic"], 3, signed=True),
            cell(of["ic_ir"], 3, signed=True),
            cell(of["rank_ic_ir"], 3, signed=True),
        )
        for name, of in ((name, models[name]) for name in _in_order(models))
    ]
    head = (
        ("Model", ""),
        ("Accuracy,&nbsp;%", "n"),
        ("Balanced accuracy,&nbsp;%", "n"),
        ("MCC", "n"),
        ("Brier", "n"),
        ("ECE", "n"),
        ("IC", "n"),
        ("Rank IC", "n"),
        ("ICIR", "n"),
        ("Rank ICIR", "n"),
    )
    return (
        '<section class="models"><h2>Models and their vote, out of fold</h2><p class="note">Under '
        "each figure its 95 % interval: a bootstrap that draws blocks of whole sessions. Base "
        f"rate {percent(models[_ENSEMBLE]['base_rate'])}: the more frequent direction. No skill: "
        "balanced accuracy 50 %, MCC and all IC figures 0, Brier score of a coin 0.2500. ICIR: "
        "mean over standard deviation of a session's IC, not annualised. ECE: expected calibration "
        f"error.</p>{table(head, rows)}</section>"
    )


def _weight(name: str, weights: Mapping[str, float]) -> str:
    return "" if name == _ENSEMBLE else f" <small>weight {percent(weights[name])}</small>"


def _coverage(ensemble: Mapping[str, Any]) -> str:
    # Rows tied at a margin come in together, so that several levels may be one and the same point.
    points = list({point["coverage"]: point for point in ensemble["by_coverage"]}.values())
    points.sort(key=lambda point: point["coverage"])
    base_rate = ensemble["base_rate"]
    rows = [
        (
            percent(point["coverage"]),
            number(point["n"], 0),
            percent(point["accuracy"]),
            _between(point, 1, scale=100),
            number(point["margin"], 4),
        )
        for point in points
    ]
    head = (
        ("Most confident", ""),
        ("n", "n"),
        ("Accuracy", "n"),
        ("95 %, Wilson", "n"),
        ("Margin, at least", "n wide"),
    )
    return (
        '<section><h2>Accuracy by coverage</h2><p class="note">Is the ensemble more often right '
        'when it is more sure? From the most confident rows to all. <span class="nobr">'
        f'<i class="dash"></i>base rate {percent(base_rate)}</span>. Wilson intervals take rows as '
        "independent, which they are not: the true ones are wider.</p>"
        + charts.line_of_intervals(
            [(item["coverage"], item["accuracy"], item["low"], item["high"]) for item in points],
            label=f"Accuracy by coverage: {percent(points[0]['accuracy'])} of the most confident "
            f"{percent(points[0]['coverage'])}, {percent(points[-1]['accuracy'])} of all; "
            f"base rate {percent(base_rate)}",
            format_tick=lambda value: percent(value),
            reference=base_rate,
        )
        + f"{table(head, rows)}</section>"
    )


def _signals(validation: Mapping[str, Any]) -> str:
    metrics, base_rate = validation["metrics"], validation["base_rate"]
    rows = [
        (
            escape(name),
            f"{percent(metrics[name]['accuracy']['value'])}"
            f" <small>{_between(metrics[name]['accuracy'], 1, scale=100)}</small>",
            _whisker(metrics[name]["accuracy"], reference=base_rate["value"], reach=0.02),
        )
        for name in _in_order(metrics)
    ]
    head = (("Model", ""), ("Hit rate", "n"), ("", ""))
    return (
        '<section><h2>Hit rate of the sides</h2><p class="note">The sign of every score less its '
        "session's mean, from which a signal takes its side: not the accuracy above, and of all "
        "scores, those too that are too weak for a signal. "
        f"{_mark('base rate ' + percent(base_rate['value']))} "
        f"({_between(base_rate, 1, scale=100)}), n = {number(base_rate['n'], 0)}; 95 % intervals "
        f"count {number(base_rate['n_independent'], 0)} without overlap.</p>"
        f"{table(head, rows)}</section>"
    )


def _final(window: Mapping[str, Any]) -> str:
    models = window["models"]
    rows = [
        (
            escape(name),
            *(
                number(scale * of[figure]["value"], digits, signed=signed)
                + f" <small>{_between(of[figure], digits, scale=scale, signed=signed)}</small>"
                for figure, digits, scale, signed in (
                    ("accuracy", 1, 100, False),
                    ("mcc", 3, 1, True),
                    ("rank_ic", 3, 1, True),
                )
            ),
        )
        for name, of in ((name, models[name]) for name in _in_order(models))
    ]
    head = (("Model", ""), ("Accuracy,&nbsp;%", "n"), ("MCC", "n"), ("Rank IC", "n"))
    ensemble = models[_ENSEMBLE]
    return (
        '<section><h2>The final window</h2><p class="note">The last fold alone, '
        f"{escape(window['first_session'])} to {escape(window['last_session'])}: nothing was "
        "chosen, weighed or calibrated on it. Under each figure its 95 % interval, by blocks of "
        f"sessions. Base rate {percent(ensemble['base_rate'])}, n = {number(ensemble['n'], 0)} of "
        f"{plural(ensemble['sessions'], 'session')}.</p>{table(head, rows)}</section>"
    )


def _validator(validator: Mapping[str, Any]) -> str:
    top, brier = validator["top_quarter"], validator["brier"]
    pairs = (
        ("Sides that were right", percent(validator["share_right"])),
        (
            "Among the quarter it trusts most",
            f"{percent(top['value'])} <small>{_between(top, 1, scale=100)}, "
            f"n = {number(top['n'], 0)}</small>",
        ),
        (
            "Brier score of its probability",
            f"{number(brier['value'], 4)} <small>{_between(brier, 4)}</small>",
        ),
        ("Brier score of the share alone", number(validator["brier_of_share"], 4)),
        ("Calibration error", number(validator["calibration_error"], 4)),
    )
    return (
        '<section><h2>The second model\'s word</h2><p class="note">A random forest says of each '
        "signal how likely its side is right, taught by earlier folds alone. It knows something "
        "where its Brier score is below that of the share alone. "
        f"n = {number(validator['n'], 0)}.</p>{_definitions(pairs)}</section>"
    )


def _groups(ensemble: Mapping[str, Any]) -> str:
    base_rate = ensemble["base_rate"]
    by_year = _group("Year", ensemble["by_year"], base_rate)
    if "by_regime" not in ensemble:
        return by_year
    return (
        f'<div class="grid2 even">{by_year}'
        f"{_group('Regime', ensemble['by_regime'], base_rate)}</div>"
    )


def _group(by: str, groups: Mapping[str, Mapping[str, Any]], base_rate: float) -> str:
    shares = [base_rate, *(figures["accuracy"] for figures in groups.values())]
    within = (min(shares) - 0.01, max(shares) + 0.01)
    rows = [
        (
            escape(name),
            number(groups[name]["n"], 0),
            percent(groups[name]["accuracy"]),
            charts.interval(*[groups[name]["accuracy"]] * 3, reference=base_rate, within=within),
            number(groups[name]["mcc"], 3, signed=True),
        )
        for name in sorted(groups)
    ]
    head = (
        (by, ""),
        ("n", "n"),
        ("Accuracy", "n"),
        (f"{percent(within[0])} {DASH} {percent(within[1])}", "scale"),
        ("MCC", "n"),
    )
    return (
        f'<section><h2>Ensemble by {by.lower()}</h2><p class="note">Without intervals: the '
        f"document has none here. {_mark('base rate of all rows,')} {percent(base_rate)}; MCC "
        f"allows for each group's own.</p>{table(head, rows)}</section>"
    )


def _portfolios(portfolio: Mapping[str, Any]) -> str:
    books = [
        (label, multiple, portfolio[name][str(multiple)])
        for name, label in _PORTFOLIOS.items()
        for multiple in sorted(int(key) for key in portfolio[name] if key.isdigit())
    ]
    reach = max(abs(book["annual_return"][end]) for _, _, book in books for end in ("low", "high"))
    rows = [
        (
            label,
            f"{multiple} &times; costs"
            f" <small>{number(multiple * portfolio['cost_bps'], 1)} bps</small>",
            percent(book["annual_return"]["value"], signed=True)
            + f" <small>{_between(book['annual_return'], 1, scale=100, signed=True)}</small>",
            _whisker(book["annual_return"], reference=0.0, reach=reach),
            number(book["sharpe"]["value"], 2, signed=True)
            + f" <small>{_between(book['sharpe'], 2, signed=True)}</small>",
            percent(book["max_drawdown"]),
            percent(book["traded_share_per_session"]),
            number(book["sessions"], 0),
        )
        for label, multiple, book in books
    ]
    head = (
        ("Portfolio", ""),
        ("A traded dollar pays", "n"),
        ("Annual return", "n"),
        ("", "wide"),
        ("Sharpe ratio", "n"),
        ("Deepest drawdown", "n"),
        ("Traded a session", "n wide"),
        ("Sessions", "n wide"),
    )
    span = portfolio["long_short"]
    return (
        "<section><h2>Portfolios net of costs: a yardstick, not a backtest</h2>"
        f'<p class="note">The {percent(portfolio["share"], 0)} of names that the ensemble ranks '
        "highest, and in the long-short one the lowest as well; filled at the close after the "
        "scored session's, which the scores know; each session's choice is held "
        f"{plural(portfolio['holding_sessions'], 'session')}; {escape(span['first_session'])} "
        f"to {escape(span['last_session'])}. Under each figure its 95 % interval; {_mark('0')}. "
        "The long-only portfolio earns what the market earns, too: only the long-short one is "
        f"about skill.</p>{table(head, rows)}</section>"
    )


def _importance(importance: Sequence[Mapping[str, Any]]) -> str:
    shown = importance[:_MOST_IMPORTANT]
    largest = max((row["importance"] for row in shown), default=0.0)
    rows = [
        (
            f"<code>{escape(row['name'])}</code>",
            charts.bar(row["importance"], largest=largest),
            number(row["importance"], 2),
            f"± {number(row['spread'], 2)}",
        )
        for row in shown
    ]
    head = (("Feature", ""), ("", ""), ("Brier, 1e-4", "n"), ("Spread", "n wide"))
    return (
        '<section><h2>Permutation importance</h2><p class="note">How much worse LightGBM\'s Brier '
        "score is on the last fold's tested rows when the feature's values are dealt out anew, in "
        f"1e-4; the {len(shown)} that matter most. Features that say the same share theirs.</p>"
        f"{table(head, rows)}</section>"
    )


def _drift(drift: Mapping[str, float]) -> str:
    order = sorted(drift, key=lambda name: (-drift[name], name))
    shown = order[:_MOST_DRIFTED]
    largest = max((drift[name] for name in shown), default=0.0)
    moved = [_moved(value) for value in drift.values()]
    rows = [
        (
            f"<code>{escape(name)}</code>",
            charts.bar(drift[name], largest=largest),
            number(drift[name], 3),
            _moved(drift[name]),
        )
        for name in shown
    ]
    head = (("Feature", ""), ("", ""), ("PSI", "n"), ("Moved", ""))
    return (
        '<section><h2>Drift of the features</h2><p class="note">Population stability index of the '
        "last fold's tested rows against its training rows. Below "
        f"{_SOME_DRIFT} little has moved, above {_MUCH_DRIFT} much. Of "
        f"{plural(len(drift), 'feature')} {moved.count('much')} moved much, {moved.count('some')} "
        f"some, {moved.count('little')} little; the {len(shown)} highest.</p>"
        f"{table(head, rows)}</section>"
    )


def _moved(stability: float) -> str:
    if stability > _MUCH_DRIFT:
        return "much"
    return "little" if stability < _SOME_DRIFT else "some"


def _folds(validation: Mapping[str, Any]) -> str:
    rows = [
        (
            number(fold["fold"], 0),
            number(fold["train_rows"], 0),
            escape(fold["train_known_by"]),
            f"{escape(fold['test_first'])} to {escape(fold['test_last'])}",
        )
        for fold in validation["folds"]
    ]
    head = (("Fold", ""), ("Rows trained on", "n"), ("Known by", ""), ("Tested", ""))
    return (
        '<section><h2>Folds</h2><p class="note">'
        f"{escape(validation['scheme'][:1].upper() + validation['scheme'][1:])}. Embargo: "
        f"{plural(validation['embargo_sessions'], 'session')}.</p>"
        f"{table(head, rows)}</section>"
    )


def _trained(document: Mapping[str, Any]) -> str:
    window, report = document["fit_window"], document["report"]
    pairs = (
        ("Profile", escape(document["profile"])),
        ("First session", escape(window["first_session"])),
        ("Last session", escape(window["last_session"])),
        ("Last label known by", escape(window["last_label_end"])),
        ("Rows", number(window["rows"], 0)),
        ("Simulated rows among them", "yes" if window["simulated"] else "no"),
        ("Features", number(len(document["features"]), 0)),
        ("Horizon", plural(document["horizon_sessions"], "session")),
        ("Joined by", f"a {escape(report['join'])}"),
        ("Seeds", escape(", ".join(str(seed) for seed in report["seeds"]))),
        ("Trials, earlier ones among them", number(document["trials"], 0)),
    )
    return f"<section><h2>What was trained</h2>{_definitions(pairs)}</section>"


def _tuning(trials: Sequence[Mapping[str, Any]]) -> str:
    """Return every configuration that was tried, or nothing where none was."""
    if not trials:
        return ""
    models = list(dict.fromkeys(trial["model"] for trial in trials))
    best = {
        model: min(trial["brier"] for trial in trials if trial["model"] == model)
        for model in models
    }
    rows = [
        (
            number(count, 0),
            escape(trial["model"]),
            ", ".join(
                f"{escape(name)} {value:.3g}" for name, value in sorted(trial["parameters"].items())
            ),
            number(trial["brier"], 5),
            "lowest" if trial["brier"] == best[trial["model"]] else "",
        )
        for count, trial in enumerate(trials, start=1)
    ]
    head = (("Trial", "n"), ("Model", ""), ("Parameters", ""), ("Brier", "n"), ("", ""))
    return (
        '<section><h2>Tuning</h2><p class="note">What was tried inside the first fold\'s training '
        "rows, before any test; the lowest Brier score of each model was taken. Each counts as a "
        f"trial above.</p>{table(head, rows)}</section>"
    )


def _files(files: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            f"<code>{escape(row['name'])}</code>",
            number(row["bytes"], 0),
            f'<code class="hash">{escape(row["sha256"])}</code>',
        )
        for row in files
    ]
    head = (("File", ""), ("Bytes", "n"), ("SHA-256", ""))
    return (
        '<section><h2>Files of this training</h2><p class="note">Stored as '
        "<code>core_models__file</code>, in forms that run no code when loaded.</p>"
        f"{table(head, rows)}</section>"
    )
