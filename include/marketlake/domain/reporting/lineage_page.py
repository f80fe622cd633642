"""The lineage page: what an artifact was made from, or what was made from it, with its proofs.

One self-contained HTML file made from a walk that was proven already (``readmodels/lineage``): it
shows the hashes, the ledger's entries and what broke. The same walk gives the same bytes. What does
not belong here: walking, reading and proving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from marketlake.domain.reporting.markup import NOT_KNOWN, number, page, plural, table, tile
from marketlake.domain.reporting.page_style import STYLE

_HASH_SHOWN = 12
_ABOVE = "shown above"
_COMPLETENESS = (
    " That none is missing is the index's word: <code>marketlake trace --down --reindex</code> "
    "rebuilds it from the ledger."
)
_STYLE = (
    STYLE
    + """
.walk,.walk ul{list-style:none;margin:0;padding:0}
.walk ul{margin-left:9px;padding-left:17px;border-left:1px solid var(--rule)}
.walk li{margin:7px 0}
.walk .what{display:flex;flex-wrap:wrap;align-items:baseline;gap:2px 10px}
.walk .hash{overflow-wrap:anywhere}
.walk b{font-weight:650;overflow-wrap:anywhere}
.walk .where{color:var(--soft);font-size:13px;overflow-wrap:anywhere;min-width:0}
.ok{color:var(--good);font-size:13px;font-weight:600;white-space:nowrap}
.broken{color:var(--bad);background:var(--bad-bg);border-radius:4px;padding:0 6px;font-size:13px;
font-weight:600;white-space:nowrap}
details{margin:2px 0 0}summary{cursor:pointer;color:var(--blue);font-size:13px}
details .scroll{max-height:340px;overflow:auto;margin:4px 0 8px}
td code{overflow-wrap:anywhere;white-space:normal}
.mono{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
overflow-wrap:anywhere}
"""
)


def render(document: Mapping[str, Any]) -> bytes:
    """Return the page of one walk.

    Parameters
    ----------
    document
        ``direction`` (up or down), ``signal`` (a row, or None), ``counts`` of artifacts, answers
        and what of each is broken, and ``tree``: nested branches of ``title``, ``note``,
        ``members``, ``answers`` and ``below``, as ``readmodels.lineage`` makes them.
    """
    tree, counts = document["tree"], document["counts"]
    up = document["direction"] == "up"
    start = tree["members"][0]
    body = "\n".join(
        [
            _header(start, counts, up=up),
            _signal(document["signal"]),
            _tiles(start, counts, up=up),
            f"<section><h2>{'Made from' if up else 'What was made from it'}</h2>"
            '<p class="note">Indented: '
            + ("what the line above was made from" if up else "what was made from the line above")
            + ". Many artifacts of one contract are one line that opens. Each has the ledger entry "
            f"that published exactly this content.{'' if up else _COMPLETENESS}</p>"
            '<ul class="walk">'
            f"{_branch(tree)}</ul></section>",
        ]
    )
    return page(
        f"Marketlake · lineage of {escape(start['contract'])}",
        body,
        footer="Proven: the entry's own bytes hash to a leaf with an inclusion proof in the "
        "ledger, and they name this content and these parents. Intact: the vendor's stored body "
        "has the hash that was recorded when it came.",
        style=_STYLE,
    ).encode()


def _header(start: Mapping[str, Any], counts: Mapping[str, int], *, up: bool) -> str:
    broken = counts["unproven"] + counts["changed"]
    chip = (
        f'<span class="chip bad">✗ {plural(broken, "broken link")}</span>'
        if broken
        else f'<span class="chip good">✓ every link {"" if up else "shown is "}proven</span>'
    )
    way = "back to the vendors" if up else "everything that touched it"
    return (
        f'<header><div><div class="brand">Marketlake · lineage · {way}</div>'
        f"<h1>{escape(start['contract'])} {escape(start['partition'])}</h1></div>"
        f'<div class="chips">{chip}</div></header>'
    )


def _signal(signal: Mapping[str, Any] | None) -> str:
    if signal is None:
        return ""
    return (
        f'<p class="lead"><b>{escape(signal["symbol"])}</b> on {escape(str(signal["session"]))}: '
        f"{escape(signal['side'])}, rank {signal['rank']}, score "
        f"{number(signal['score_bps'], 1, signed=True)} bps; hit rate "
        f"{number(100 * signal['confidence'], 1)} % "
        f"[{number(100 * signal['confidence_low'], 1)}, "
        f"{number(100 * signal['confidence_high'], 1)}], n = {number(signal['confidence_n'], 0)}. "
        f"Model <b>{escape(signal['model_name'])}</b>, document "
        f"{_hash(signal['model_sha256'])}.</p>"
    )


def _tiles(start: Mapping[str, Any], counts: Mapping[str, int], *, up: bool) -> str:
    whole = "none missing" if up else "all that are shown"
    return (
        '<section class="tiles">'
        + tile(
            "Artifacts",
            number(counts["artifacts"], 0),
            "behind it, itself among them" if up else "from it on, itself among them",
        )
        + tile(
            "Proven in the ledger",
            number(counts["artifacts"] - counts["unproven"], 0),
            whole if not counts["unproven"] else f"{counts['unproven']} missing",
        )
        + tile(
            "Vendor answers",
            number(counts["answers"], 0),
            "every body as it came" if not counts["changed"] else f"{counts['changed']} changed",
        )
        + tile(
            "Ledger entry",
            NOT_KNOWN if start["ledger_index"] is None else str(start["ledger_index"]),
            f'<span class="mono">{escape(start["sha256"])}</span>',
        )
        + "</section>"
    )


def _branch(branch: Mapping[str, Any]) -> str:
    members, note = branch["members"], branch["note"]
    where = f'<span class="where">{escape(note)}</span>' if note else ""
    told = [item for item in branch["below"] if item["note"] != _ABOVE]
    above = "; ".join(item["title"] for item in branch["below"] if item["note"] == _ABOVE)
    below = "".join(map(_branch, told))
    below += f'<li class="where">{_ABOVE}: {escape(above)}</li>' if above else ""
    one = members[0] if len(members) == 1 else None
    hashed = "" if one is None else f"{_hash(one['sha256'])} "
    return (
        f'<li><div class="what"><b>{escape(branch["title"])}</b>{hashed}{_proof(members)}{where}'
        + "</div>"
        + ("" if one is not None else _members(members))
        + _answers(branch["answers"])
        + (f"<ul>{below}</ul>" if below else "")
        + "</li>"
    )


def _proof(members: Sequence[Mapping[str, Any]]) -> str:
    missing = [item for item in members if item["ledger_index"] is None]
    if missing:
        some = "" if len(members) == 1 else f"{len(missing)} of {len(members)} "
        return f'<span class="broken">✗ {some}not in the ledger</span>'
    entries = [item["ledger_index"] for item in members]
    said = f"entry {entries[0]}" if len(entries) == 1 else f"entries {min(entries)}..{max(entries)}"
    return f'<span class="ok">✓ {said}</span>'


def _members(members: Sequence[Mapping[str, Any]]) -> str:
    head = (("Partition", ""), ("Ledger entry", "n"), ("SHA-256 of its content", ""), ("", "wide"))
    rows = [
        (
            escape(item["partition"]),
            "✗ none" if item["ledger_index"] is None else f"✓ {item['ledger_index']}",
            f"<code>{escape(item['sha256'])}</code>",
            escape(item["note"]),
        )
        for item in members
    ]
    return f"<details><summary>all {len(rows)}</summary>{table(head, rows)}</details>"


def _answers(answers: Sequence[Mapping[str, Any]]) -> str:
    if not answers:
        return ""
    head = (
        ("Symbol", ""),
        ("", ""),
        ("Bytes", "n"),
        ("SHA-256 of the body", ""),
        ("Request", "wide"),
    )
    rows = [
        (
            escape(item["symbol"]),
            '<span class="ok">✓ intact</span>'
            if item["intact"]
            else '<span class="broken">✗ changed</span>',
            number(item["body_bytes"], 0),
            f"<code>{escape(item['body_sha256'])}</code>",
            f'<span class="reason">{item["status"]} {escape(item["method"])} '
            f"{escape(item['url'])}</span>",
        )
        for item in answers
    ]
    intact = sum(item["intact"] for item in answers)
    return (
        f"<details{'' if intact == len(answers) else ' open'}><summary>"
        f"{plural(len(answers), 'vendor answer')}, {intact} intact</summary>{table(head, rows)}"
        "</details>"
    )


def _hash(value: str) -> str:
    shown, rest = escape(value[:_HASH_SHOWN]), escape(value[_HASH_SHOWN:])
    return f'<code class="hash">{shown}<span class="rest">{rest}</span></code>'
