"""Every command of the README's shell blocks works as written there, and so do its queries."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.settings import PROJECT_ROOT

from tests.integration.conftest import (
    SESSIONS,
    ContentHashes,
    Installation,
    stopped_afterwards,
    wait_until,
)
from tests.readme import blocks, shell_lines

pytestmark = [pytest.mark.platform, pytest.mark.timeout(900)]

SCRIPTS = Path(sysconfig.get_path("scripts"))
# `git clone <this repository>` needs an address; the others only move and name things.
TYPED = ("git clone ", "cd ", "alias ")
MAKE = [line for line in shell_lines() if line.startswith("make ")]
ENDING = ["make stop", "make clean"]
LONG = [
    line
    for line in shell_lines()
    if line.startswith(("marketlake train", "marketlake backfill", "marketlake airflow backfill"))
]
SHORT = [
    line for line in shell_lines() if line.startswith("marketlake ") and line not in LONG
]  # fmt: skip

with_make = pytest.mark.skipif(
    not (PROJECT_ROOT / ".venv" / "bin" / "marketlake").exists(),
    reason="make uses the checkout's own .venv, and there is none",
)


def typed(
    one: Installation, line: str, *, cwd: Path, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a line in a shell that finds the command line, with this installation's state folder."""
    return subprocess.run(
        ["bash", "-euc", line],
        env=one.environment | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}"},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def made(one: Installation, line: str) -> str:
    """Run a line of make where the README does, with the environment as it is installed."""
    words = line.replace("make", "make -o .venv/.installed", 1)
    words = words.replace("-C marketlake", f"-C '{PROJECT_ROOT.name}'")
    done = typed(one, words, cwd=PROJECT_ROOT.parent if "-C" in line else PROJECT_ROOT)
    assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_every_line_of_the_readme_is_run_here() -> None:
    known = [*MAKE, *SHORT, *LONG, *(line for line in shell_lines() if line.startswith(TYPED))]
    assert sorted(known) == sorted(shell_lines())
    assert set(ENDING) < set(MAKE)
    assert len(LONG) == 3
    assert len(SHORT) >= 7


@with_make
@pytest.mark.parametrize("line", [line for line in MAKE if line not in ENDING])
def test_what_make_does_beside_a_running_platform(ran: Installation, line: str) -> None:
    assert made(ran, line)


@pytest.mark.parametrize("line", SHORT)
def test_commands_that_look(ran: Installation, tmp_path: Path, line: str) -> None:
    done = typed(ran, line, cwd=tmp_path)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-3000:]}"
    assert done.stdout
    if "--save" in line:
        (saved,) = tmp_path.iterdir()
        assert saved.name == line.split()[-1]
        assert b"<!doctype html>" in saved.read_bytes()[:100].lower()


@pytest.mark.parametrize("number", range(3))
def test_the_worked_queries_return_rows(ran: Installation, number: int) -> None:
    queries = blocks("sql")
    assert len(queries) == 3
    rows = json.loads(ran.must("sql", "--json", "-c", queries[number]))
    assert rows
    assert len(rows[0]) >= 3


def test_the_strongest_signals_are_compared_with_what_they_predict(ran: Installation) -> None:
    def asked(query: str) -> pl.DataFrame:
        return pl.DataFrame(json.loads(ran.must("sql", "--json", "-c", query)))

    signals = asked("select * from marts.fct_signal")
    returns = asked("select session, symbol, total_return from marts.fct_daily_return")
    horizon = signals["horizon_sessions"].max()
    realised = []
    for day in signals["session"].unique():
        ahead = returns["session"].filter(returns["session"] > day).unique().sort().head(horizon)
        grown = (
            returns.filter(pl.col("session").is_in(ahead.implode()))
            .join(signals.filter(session=day).select("symbol"), on="symbol")
            .group_by("symbol")
            .agg((pl.col("total_return") + 1.0).product())
        )
        above = 1e4 * (pl.col("total_return") - pl.col("total_return").mean())
        realised.append(
            grown.select("symbol", above.alias("above"), session=pl.lit(day), n=len(ahead))
        )
    expected = (
        signals.join(pl.concat(realised), on=["session", "symbol"])
        .sort(pl.col("score_bps").abs(), descending=True)
        .head(10)
    )
    found = asked(blocks("sql")[0])
    assert found.select("session", "symbol").equals(expected.select("session", "symbol"))
    assert found["predicted_bps"].to_list() == pytest.approx(expected["score_bps"], abs=0.051)
    assert found["realised_bps"].to_list() == pytest.approx(expected["above"], abs=0.051)
    assert found["sessions_so_far"].to_list() == expected["n"].to_list()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_commands_for_other_sessions_in_their_order(
    ran: Installation, first_hashes: ContentHashes, api: AirflowApi, tmp_path: Path
) -> None:
    train, backfill, again = LONG
    for line in (train, backfill):
        done = typed(ran, line, cwd=tmp_path, timeout_s=700)
        assert done.returncode == 0, f"{line}\n{done.stdout[-4000:]}\n{done.stderr[-3000:]}"
    thanksgiving = date(2022, 11, 24)
    around = [date(2022, 11, day) for day in (22, 23, 25)]
    assert all(ran.progress(api, session).is_complete for session in around)
    assert not ran.progress(api, thanksgiving).runs

    chosen = [session for session in SESSIONS if session <= date(2022, 12, 23)]
    before = {session: ran.progress(api, session).runs[-1].run_id for session in chosen}
    done = typed(ran, again, cwd=tmp_path)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-3000:]}"
    for session in chosen:
        wait_until(
            lambda session=session: (
                (now := ran.progress(api, session)).is_complete
                and now.runs[-1].run_id != before[session]
            ),
            what=f"the chain of {session} to have run again",
        )
    partitions = {f"session={session}" for session in SESSIONS}
    assert ran.hashes(SESSIONS) == {
        key: value for key, value in first_hashes.items() if key[1] in partitions
    }


@with_make
@pytest.mark.slow
def test_make_stops_everything_and_then_forgets_it(install: Callable[..., Installation]) -> None:
    with stopped_afterwards(install("left behind")) as one:
        one.must("up")
        assert one.processes()
        made(one, "make stop")
        assert one.processes() == []
        assert one.settings.runtime_env.exists()
        made(one, "make clean")
        assert not one.home.exists()
