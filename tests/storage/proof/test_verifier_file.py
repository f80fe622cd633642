"""The verifier as one file, run by an interpreter that knows nothing of the project."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import cryptography
import pytest
from marketlake.storage import proof
from marketlake.storage.proof.__main__ import main
from marketlake.storage.verifier_file import write_verifier

from tests.storage.proof.histories import (
    KEY,
    ORIGIN,
    PINNED,
    history,
    rewritten,
    signed,
    with_row,
)

HONEST = history([1, 3, 2, 4, 1, 1, 5])
SITE = Path(cryptography.__file__).parents[1]
# -I and -S: no environment variables, no working directory, no installed packages, no project.
ISOLATED = f"""
import importlib.util, runpy, sys
class OnlyCryptography:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("cryptography", "_cffi_backend", "cffi"):
            from importlib.machinery import PathFinder
            return PathFinder.find_spec(name, path or [{str(SITE)!r}])
sys.meta_path.append(OnlyCryptography())
assert importlib.util.find_spec("marketlake") is None
assert importlib.util.find_spec("pydantic") is None
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    names = {{name.partition(".")[0] for name in sys.modules}}
    assert not names & {{"marketlake", "pydantic", "psycopg", "numpy"}}, names
"""


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_verifier(tmp_path_factory.mktemp("verifier") / "verify_ledger.pyz")


def run(verifier: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", ISOLATED, verifier, *words],
        capture_output=True,
        text=True,
        cwd=verifier.parent,
        env={"PATH": os.environ["PATH"]},
        check=False,
    )


def test_the_folder_imports_the_standard_library_cryptography_and_itself_only() -> None:
    allowed = {*sys.stdlib_module_names, "cryptography"}
    sources = sorted(Path(proof.__file__).parent.glob("*.py"))
    assert len(sources) > 6
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom):
                inside = node.level == 1
                assert inside or (node.module or "").partition(".")[0] in allowed, source.name
                assert node.level < 2, source.name
            elif isinstance(node, ast.Import):
                names = {name.name.partition(".")[0] for name in node.names}
                assert names <= allowed, source.name


def test_the_same_sources_give_the_same_bytes(verifier: Path, tmp_path: Path) -> None:
    again = write_verifier(tmp_path / "again.pyz")
    assert again.read_bytes() == verifier.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.pyz"]
    assert os.access(again, os.X_OK)


def test_an_honest_export_verifies_without_the_project(verifier: Path, tmp_path: Path) -> None:
    export = HONEST.write(tmp_path / "master_log.db")
    notes = tmp_path / "checkpoints.txt"
    notes.write_text("\n".join(one.note or "" for one in HONEST.checkpoints))
    done = run(verifier, export, "--public-key", PINNED, "--checkpoint", notes, "--workers", "2")
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("17", "OK", HONEST.head.root_hash, f"signed by {ORIGIN}+", "8 checkpoints"):
        assert text in done.stdout
    assert "warning" not in done.stdout


def test_the_first_bad_entry_is_told_and_a_program_can_read_it(
    verifier: Path, tmp_path: Path
) -> None:
    export = with_row(HONEST, 4, canonical=b"x").write(tmp_path / "master_log.db")
    done = run(verifier, export, "--public-key", PINNED, "--json")
    assert done.returncode == 1
    verdict = json.loads(done.stdout)
    assert not verdict["ok"]
    assert verdict["faults"][0] == "entry 4: its bytes do not have the stored leaf hash"
    assert "entry 4: its bytes" in run(verifier, export, "--public-key", PINNED).stdout


def test_help_names_every_exit_code(verifier: Path) -> None:
    done = run(verifier, "--help")
    assert done.returncode == 0
    for text in ("--public-key", "--checkpoint", "--workers", "--json", "3 nothing is wrong"):
        assert text in done.stdout


def test_without_a_key_of_ones_own_nothing_is_proven(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = str(HONEST.write(tmp_path / "log.db"))
    assert main([export]) == 3
    assert "NOT checked against a key of yours" in capsys.readouterr().out
    assert main([export, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["ok"] is False
    spoiled = str(with_row(HONEST, 4, canonical=b"x").write(tmp_path / "spoiled.db"))
    assert main([spoiled]) == 1


def test_a_rewriting_by_who_has_the_key_shows_against_a_kept_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = str(rewritten(HONEST, 7, KEY).write(tmp_path / "log.db"))
    notes = tmp_path / "notes.txt"
    notes.write_text(signed(HONEST.head).note or "")
    assert main([export, "--public-key", PINNED]) == 0
    assert "checkpoints from elsewhere" in capsys.readouterr().out
    assert main([export, "--public-key", PINNED, "--checkpoint", str(notes)]) == 1
    assert f"fork: one of entries 0 to 16 is not what {notes}" in capsys.readouterr().out


def test_what_cannot_be_verified_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = str(HONEST.write(tmp_path / "log.db"))
    nothing = tmp_path / "nothing.txt"
    nothing.write_text("nothing")
    for words, message in (
        ([str(tmp_path / "absent.db")], "absent.db is not there"),
        ([str(nothing)], "not a database"),
        ([export, "--public-key", "mine"], "public key"),
        ([export, "--checkpoint", str(nothing)], "no signed checkpoint"),
        ([export, "--checkpoint", str(tmp_path / "absent.txt")], "absent.txt"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
    for words in ([], [export, "--workers", "0"], [export, "--what"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
