"""Verify an export of the Marketlake ledger: every entry, every checkpoint, every signature.

Exit codes: 0 everything is right; 1 faults, the first bad entry or checkpoint first; 2 wrong usage
or a file that cannot be read; 3 nothing is wrong, but signatures were not held against a key of
yours, so whoever made the file may have made all of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import PublicKey, notes_in
from .export_file import ExportFile, NotAnExport
from .month_file import is_month, verify_month
from .verification import Kept, Verification, verify_file

OK, FAULTS, UNREADABLE, UNPINNED = range(4)
_NOT_PINNED = (
    "signatures were NOT checked against a key of yours: give --public-key, from where the "
    "platform's owner published it"
)


@dataclass(frozen=True)
class _Verdict:
    """What is printed."""

    file: str
    verification: Verification
    meta: dict[str, str]
    checkpoints: int
    first_at_utc: str | None
    last_at_utc: str | None
    pinned: str | None
    kept: int

    @property
    def exit_code(self) -> int:
        """Return what the process ends with."""
        if not self.verification.ok:
            return FAULTS
        return OK if self.pinned is not None else UNPINNED

    def as_json(self) -> str:
        """Return the verdict for a program."""
        document = {
            "ok": self.exit_code == OK,
            "file": self.file,
            "entries": self.verification.size,
            "checkpoints": self.checkpoints,
            "first_checkpoint_utc": self.first_at_utc,
            "last_checkpoint_utc": self.last_at_utc,
            "root_hash": self.verification.root_hash,
            "signatures_checked_with": self.pinned,
            "kept_checkpoints": self.kept,
            "written_by": self.meta,
            "faults": self.verification.faults,
        }
        return json.dumps(document, indent=2, ensure_ascii=False)

    def as_text(self) -> str:
        """Return the verdict for a person."""
        found = self.verification
        key = f"each signed by {self.pinned}" if self.pinned else "signatures NOT checked"
        lines = [
            f"file         {self.file}",
            f"entries      {found.size:,}",
            f"checkpoints  {self.checkpoints:,}, {key}",
            f"from, to     {self.first_at_utc or 'never'}, {self.last_at_utc or 'never'}",
            f"root         {found.root_hash}",
            f"from outside {self.kept:,} checkpoints",
        ]
        if found.ok:
            lines.append("verdict      OK: nothing was changed, dropped, inserted or reordered")
        else:
            lines.append(f"verdict      {len(found.faults)} FAULTS, the first one first:")
            lines += [f"  - {fault}" for fault in found.faults]
        if self.pinned is None:
            lines.append(f"warning      {_NOT_PINNED}")
        elif not self.kept:
            lines.append("note         a cut tail shows only against checkpoints from elsewhere")
        return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = _parser().parse_args(arguments)
    try:
        kept = _read_notes(given.checkpoint)
        verdict = _verify(given.file, given.public_key, kept, given.workers)
    except (OSError, ValueError) as error:  # of which an unreadable export is one
        print(f"cannot verify: {error}", file=sys.stderr)
        return UNREADABLE
    print(verdict.as_json() if given.json else verdict.as_text())
    return verdict.exit_code


def _verify(path: Path, public_key: str | None, kept: list[Kept], workers: int | None) -> _Verdict:
    pinned = None
    if public_key is not None:
        key = PublicKey.read(public_key)
        pinned = f"{key.name}+{key.key_id.hex()}"
    if not path.is_file():
        raise NotAnExport(f"{path} is not there")
    with ExportFile(path) as file:
        meta, month = file.meta(), is_month(file)
        points = file.checkpoints()
    if month and kept:
        raise ValueError("one month is verified by itself; hold the whole log against checkpoints")
    if month:
        found = verify_month(path, public_key=public_key)
    else:
        found = verify_file(path, public_key=public_key, kept=kept, workers=workers)
    times = [one.recorded_at_utc for one in points]
    return _Verdict(
        file=str(path),
        verification=found,
        meta=meta,
        checkpoints=len(points),
        first_at_utc=times[0] if times else None,
        last_at_utc=times[-1] if times else None,
        pinned=pinned,
        kept=len(kept),
    )


def _read_notes(paths: Sequence[Path]) -> list[Kept]:
    kept: list[Kept] = []
    for path in paths:
        notes = notes_in(path.read_text(encoding="utf-8"))
        if not notes:
            raise ValueError(f"{path} holds no signed checkpoint")
        kept += [(str(path), note) for note in notes]
    return kept


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="verify_ledger",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="the export, an SQLite file")
    parser.add_argument(
        "--public-key", metavar="VKEY", help="the pinned key: name+8 hex digits+base64"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="NOTE-FILE",
        type=Path,
        action="append",
        default=[],
        help="signed checkpoints that were kept elsewhere; may be given again",
    )
    parser.add_argument(
        "--workers", metavar="N", type=_count, help="processes; default: one a core"
    )
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError("at least one")
    return number


if __name__ == "__main__":
    sys.exit(main())
