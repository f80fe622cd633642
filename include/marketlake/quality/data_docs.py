"""The quality gates as one page: what the suites demand, and what each gate said.

Great Expectations' own renderers draw every suite and every verdict. Its page around them is not
used: it takes styles, scripts and pictures from seven hosts of others, and shows the wall clock.
Does not belong: judging (:mod:`marketlake.quality.gate`) and publishing (pipelines).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from marketlake.contracts.catalog import CATALOG
from marketlake.quality.gate import SUITES, engine

_SAMPLED_VALUES = 20
_STYLE = """
.fa-check-circle::before{content:"\\2713"}.fa-times::before{content:"\\2717"}
.fa-exclamation-triangle::before{content:"!"}
.text-success{color:var(--good)}.text-danger{color:var(--bad);font-weight:600}
.text-warning{color:var(--warn)}.badge{font-weight:600}i{font-style:normal}
.alert p,.ge-section p{margin:0 0 4px}h5{margin:14px 0 4px;font-size:14px}
.ge-section td,.ge-section th{white-space:normal;vertical-align:top;text-align:left}
.ge-section .table-responsive{overflow-x:auto}
header{margin-bottom:18px}summary{cursor:pointer;font-weight:600}details{margin:0}
"""


def page(
    reports: Sequence[Mapping[str, Any]], *, style: str, suites: Path = SUITES
) -> tuple[bytes, dict[str, Any]]:
    """Return the page, and the ``suites``, ``verdicts`` and ``engine`` of ``out_docs__quality``.

    ``reports`` are documents of ``core_quality__gate_report``, newest first; ``style`` is the style
    sheet that our pages share. The same reports and suites give the same bytes.
    """
    demanded = {
        item.name: json.loads((suites / f"{item.name}.json").read_text(encoding="utf-8"))
        for item in CATALOG
        if item.checks
    }
    judged = [verdict for report in reports for verdict in _verdicts_of(report)]
    drawn_by = engine()
    contents = {
        "suites": {name: len(suite["expectations"]) for name, suite in demanded.items()},
        "verdicts": [
            {
                **{name: item[name] for name in ("contract", "partition", "verdict")},
                "rows_in": item["rows_in"],
                "rows_quarantined": item["rows_quarantined"],
                "checks": len(item["results"]),
                "checks_failed": sum(not result["success"] for result in item["results"]),
            }
            for item in judged
        ],
        "engine": drawn_by,
    }
    body = [
        _overview(contents),
        *(_verdict_section(item, demanded[item["contract"]]) for item in judged),
        "<h2>What the suites demand</h2>",
        *(_suite_section(suite) for suite in demanded.values()),
    ]
    return _shell("".join(body), style=style, engine=drawn_by).encode(), contents


def _verdicts_of(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a report, and the reports inside it of what was judged with it."""
    within = [item for item in report.values() if isinstance(item, Mapping) and "verdict" in item]
    return [report, *within]


def _overview(contents: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><td><a href="#{_anchor(item)}">{escape(item["partition"])}</a></td>'
        f"<td>{escape(item['contract'])}</td><td>{_chip(item['verdict'])}</td>"
        f'<td class="n">{item["rows_in"]}</td><td class="n">{item["rows_quarantined"]}</td>'
        f'<td class="n">{item["checks_failed"]} of {item["checks"]}</td></tr>'
        for item in contents["verdicts"]
    )
    heads = "".join(f"<th>{name}</th>" for name in ("partition", "contract", "verdict")) + "".join(
        f'<th class="n">{name}</th>' for name in ("rows", "quarantined", "checks failed")
    )
    return (
        "<section><h2>What the gates said</h2><div class=scroll><table><thead><tr>"
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _verdict_section(report: Mapping[str, Any], suite: Mapping[str, Any]) -> str:
    """Return one verdict as Great Expectations draws it, then the gate's own rules."""
    demands = {(item["meta"]["check"], item["severity"]): item for item in _shown(suite)}
    answered, others = [], []
    for result in report["results"]:
        demand = demands.get((result["check"], result["severity"]))
        if demand is None:
            others.append(result)
        else:
            answered.append(_answer(report, result, demand))
    drawn = _drawn_validation(report, suite, answered)
    rules = "".join(
        f"<li>{'✓' if item['success'] else '✗'} {escape(item['check'])}: "
        f"{escape(str(item['observed_value']))} ({escape(item['reason'])})</li>"
        for item in others
    )
    return (
        f'<section id="{_anchor(report)}"><details><summary>{escape(report["partition"])} '
        f"{escape(report['contract'])} {_chip(report['verdict'])}</summary>{drawn}"
        f"<h3>Rules beside the suite</h3><ul>{rules}</ul></details></section>"
    )


def _answer(report: Mapping[str, Any], result: Mapping[str, Any], demand: Mapping[str, Any]) -> Any:
    """Rebuild Great Expectations' answer to one expectation from what the report kept of it."""
    from great_expectations.core.expectation_validation_result import ExpectationValidationResult
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    # Great Expectations puts sampled values into its tables as they are.
    failing = [
        [escape(cell) if isinstance(cell := row[name], str) else cell for name in result["columns"]]
        for row in result["failing_rows"]
    ]
    rows = report["rows_in"]
    counted = {
        "element_count": rows,
        "unexpected_count": len(failing),
        "unexpected_percent": 100 * len(failing) / rows if rows else 0.0,
        "partial_unexpected_list": [
            cells[0] if len(cells) == 1 else ", ".join(map(str, cells))
            for cells in failing[:_SAMPLED_VALUES]
        ],
    }
    return ExpectationValidationResult(
        success=result["success"],
        expectation_config=ExpectationConfiguration(**demand),
        result=(
            {"observed_value": result["observed_value"]} if result["level"] == "table" else counted
        ),
        exception_info={
            "raised_exception": False,
            "exception_message": None,
            "exception_traceback": None,
        },
        meta={},
    )


def _drawn_validation(
    report: Mapping[str, Any], suite: Mapping[str, Any], answers: Sequence[Any]
) -> str:
    from great_expectations.core.expectation_validation_result import (
        ExpectationSuiteValidationResult,
    )
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer

    good = sum(answer.success for answer in answers)
    validation = ExpectationSuiteValidationResult(
        success=report["verdict"] == "passed",
        results=list(answers),
        suite_name=suite["name"],
        suite_parameters={},
        statistics={
            "evaluated_expectations": len(answers),
            "successful_expectations": good,
            "unsuccessful_expectations": len(answers) - good,
            "success_percent": 100 * good / len(answers) if answers else None,
        },
        meta={"batch_spec": {"data_asset_name": report["contract"]}},
    )
    # The last section tells of the run: its library and times, which are not content.
    return _drawn(ValidationResultsPageRenderer(run_info_at_end=True).render(validation), skip=-1)


def _suite_section(suite: Mapping[str, Any]) -> str:
    import great_expectations
    from great_expectations.render.renderer.page_renderer import ExpectationSuitePageRenderer

    shown = great_expectations.ExpectationSuite(
        name=suite["name"], expectations=_shown(suite), meta=suite["meta"]
    )
    drawn = _drawn(ExpectationSuitePageRenderer().render(shown), skip=None)
    return (
        f'<section id="suite-{escape(suite["name"])}"><details><summary>{escape(suite["name"])} '
        f"({len(suite['expectations'])} checks)</summary>{drawn}</details></section>"
    )


def _drawn(document: Any, *, skip: int | None) -> str:
    from great_expectations.render.view import DefaultJinjaSectionView

    view = DefaultJinjaSectionView()
    html = "".join(
        view.render({"section": section.to_json_dict(), "section_loop": {"index": number}})
        for number, section in enumerate(document.sections[:skip])
    )
    return re.sub(r'href="[./]*/expectations/(\w+)\.html"', r'href="#suite-\1"', html)


def _shown(suite: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the expectations with words where the gate puts a calendar's sessions."""
    return [{**item, "kwargs": _with_words(item["kwargs"])} for item in suite["expectations"]]


def _with_words(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: [value["$PARAMETER"].replace("_", " ")] if isinstance(value, Mapping) else value
        for name, value in kwargs.items()
    }


def _anchor(verdict: Mapping[str, Any]) -> str:
    return escape(f"{verdict['contract']}-{verdict['partition']}")


def _chip(verdict: str) -> str:
    return f'<span class="chip {"good" if verdict == "passed" else "bad"}">{escape(verdict)}</span>'


def _shell(body: str, *, style: str, engine: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Data quality</title><style>{style}{_STYLE}</style></head><body><main><header>"
        f'<div><div class="brand">Marketlake</div><h1>Data quality</h1></div></header>{body}'
        f"<footer>Drawn by {escape(engine)} from the committed suites and the published gate "
        "reports.</footer></main></body></html>\n"
    )
