"""Commands that make Airflow work: run (the main job), backfill, train, load-history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from marketlake.calendars import Calendar
from marketlake.cli.platform import start_platform
from marketlake.clock import monotonic_s, utc_now
from marketlake.errors import ConfigError, MissingPartition, Stale
from marketlake.settings import Settings, load_settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from marketlake.services.platform.airflow_api import AirflowApi
    from marketlake.services.platform.daily_runs import FailedTask
    from marketlake.services.platform.following import SessionProgress

_RUN_SESSIONS = 5
_TRAINING_GAP_SESSIONS = 15
_MARKS = {"success": "ok", "failed": "FAILED", "running": "...", "queued": "queued"}

Day = Annotated[datetime, typer.Option(formats=["%Y-%m-%d"])]


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(run)
    app.command()(backfill)
    app.command()(train)
    app.command("load-history")(load_history)


def run() -> None:
    """Do the main job: start, load history, train, run the last five sessions, say what came out.

    What is already done is kept, so a second call takes seconds; what failed is tried again.
    """
    began = monotonic_s()
    settings = start_platform().settings
    plan = plan_run(settings)
    with _airflow(settings) as api:
        _on_demand(settings, api, "load_history", {"through": plan.history_through.isoformat()})
        _on_demand(settings, api, "train_models", {"as_of": plan.train_as_of.isoformat()})
        _sessions(settings, api, list(plan.sessions), reprocess="failed")
        _on_demand(settings, api, "publish_docs", {"through": plan.sessions[-1].isoformat()})
        _exports(settings, api, plan.sessions)
    _print_summary(settings, monotonic_s() - began)


def backfill(
    first: Annotated[
        datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day of the range.")
    ],
    last: Annotated[
        datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day of the range.")
    ],
    reprocess: Annotated[
        Literal["none", "failed", "completed"],
        typer.Option(help="Which sessions that have already been run are run again."),
    ] = "none",
    missing: Annotated[
        bool, typer.Option("--missing", help="Only sessions whose report is not published.")
    ] = False,
    stale: Annotated[
        bool,
        typer.Option(
            "--stale", help="Only sessions made from something replaced since; redo them."
        ),
    ] = False,
) -> None:
    """Run the daily DAGs for every exchange session of a range, and wait for all of them."""
    if first > last:
        raise typer.BadParameter(f"--from {first:%F} is after --to {last:%F}")
    if reprocess != "none" and (missing or stale):
        raise typer.BadParameter("--reprocess goes with neither --missing nor --stale")
    settings = load_settings()
    sessions = Calendar.of(settings.market.calendar).sessions(first.date(), last.date())
    if not sessions:
        typer.echo(f"no {settings.market.calendar} session from {first:%F} to {last:%F}")
        return
    with _airflow(settings) as api:
        if not (missing or stale):
            _sessions(settings, api, sessions, reprocess=reprocess)
        if missing:
            _missing_sessions(settings, api, sessions)
        if stale:
            _stale_sessions(settings, api, sessions)


def train(
    as_of: Annotated[
        datetime,
        typer.Option("--as-of", formats=["%Y-%m-%d"], help="Last session the model may know."),
    ],
    profile: Annotated[
        Literal["quick", "full"] | None,
        typer.Option(help="How much is trained. Default: the setting models.profile."),
    ] = None,
) -> None:
    """Train the ensemble as of a session, and put it to the gate."""
    settings = load_settings()
    session = Calendar.of(settings.market.calendar).require_session(as_of.date())
    with _airflow(settings) as api:
        conf = {"as_of": session.isoformat()} | ({"profile": profile} if profile else {})
        _on_demand(settings, api, "train_models", conf, again=True)


def load_history(
    through: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Default: the session before the last five."),
    ] = None,
) -> None:
    """Load, gate and publish the market's history up to a session."""
    settings = load_settings()
    if through is None:
        last = plan_run(settings).history_through
    else:
        last = Calendar.of(settings.market.calendar).require_session(through.date())
    with _airflow(settings) as api:
        _on_demand(settings, api, "load_history", {"through": last.isoformat()}, again=True)


@dataclass(frozen=True)
class RunPlan:
    """The dates of the main job."""

    history_through: date
    train_as_of: date
    sessions: tuple[date, ...]


def plan_run(settings: Settings, now: datetime | None = None) -> RunPlan:
    """Say which sessions the main job covers: the last five of the market."""
    calendar = Calendar.of(settings.market.calendar)
    last = settings.market.last_session or calendar.latest_due(
        now or utc_now(), settings.market.publish_delay_minutes
    )
    sessions = calendar.window(last, _RUN_SESSIONS)
    return RunPlan(
        history_through=calendar.previous(sessions[0]),
        train_as_of=calendar.previous(sessions[0], _TRAINING_GAP_SESSIONS),
        sessions=tuple(sessions),
    )


@contextmanager
def _airflow(settings: Settings) -> Iterator[AirflowApi]:
    from marketlake.services.platform.airflow_api import AirflowApi
    from marketlake.services.platform.daily_runs import require_running

    if not settings.airflow.password.get_secret_value():
        raise ConfigError(
            expected="a platform with a state folder of its own, or MARKETLAKE_AIRFLOW__PASSWORD",
            was="no password for Airflow",
            where=str(settings.runtime_env),
            todo="`marketlake up` starts it",
        )
    with AirflowApi(settings.airflow) as api:
        require_running(api, settings)
        yield api


def _on_demand(
    settings: Settings,
    api: AirflowApi,
    dag_id: str,
    conf: dict[str, str],
    *,
    again: bool = False,
) -> None:
    """Run an on-demand DAG and wait; end the program if it fails.

    A run with the same parameters that has succeeded is kept, one in progress is waited for.
    """
    from marketlake.services.platform import daily_runs

    label = " ".join([dag_id, *(f"{name}={value}" for name, value in conf.items())])
    known = None if again else daily_runs.latest_on_demand(api, dag_id, conf)
    if known is not None and known["state"] == "success":
        typer.echo(f"{label}  kept")
        return
    began = monotonic_s()
    run_id = str(known["dag_run_id"]) if known else api.trigger(dag_id, conf=conf)
    with _Progress() as progress:
        ended = daily_runs.await_on_demand(
            api, dag_id, run_id, lambda tasks: progress.tell_tasks(label, tasks)
        )
    if ended == "failed":
        _fail(daily_runs.failures_of(settings, api, dag_id, run_id))
    typer.echo(f"{label}  done in {monotonic_s() - began:.1f} s")


def _sessions(
    settings: Settings,
    api: AirflowApi,
    sessions: list[date],
    *,
    reprocess: Literal["none", "failed", "completed"],
) -> None:
    """Backfill the sessions and wait for the whole chain; end the program if one fails."""
    from marketlake.services.platform import daily_runs

    label = f"{sessions[0]} to {sessions[-1]} ({len(sessions)} sessions)"
    before = daily_runs.session_progress(api, sessions)
    if reprocess != "completed" and all(session.is_complete for session in before):
        typer.echo(f"backfill {label}  kept")
        return
    began = monotonic_s()
    if reprocess == "failed":
        moved = [*daily_runs.resume_failed(api, before), *daily_runs.hasten_waiting(api, before)]
        for resumed in moved:
            typer.echo(f"{resumed.session} {resumed.dag_id}  resumed")
    if reprocess == "completed" or not all(session.has_begun for session in before):
        typer.echo(f"airflow backfill create: {label}")
        daily_runs.create_backfill(settings, api, sessions[0], sessions[-1], reprocess=reprocess)
        _require_created(daily_runs.session_progress(api, sessions))
    with _Progress() as progress:
        ended = daily_runs.await_sessions(api, sessions, progress.tell_sessions)
    failed = [run for session in ended if (run := session.failed) is not None]
    if failed:
        _fail([task for run in failed for task in daily_runs.failed_tasks(settings, api, run)])
    typer.echo(f"backfill {label}  done in {monotonic_s() - began:.1f} s")


def _exports(settings: Settings, api: AirflowApi, sessions: Sequence[date]) -> None:
    """Wait for the audit files that these sessions set off; end the program if they failed."""
    from marketlake.services.platform import daily_runs

    failed = daily_runs.await_exports(settings, api, sessions)
    if failed:
        _fail(failed)


def _missing_sessions(settings: Settings, api: AirflowApi, sessions: list[date]) -> None:
    """Run what has no report yet; what failed on the way is taken up where it stopped."""
    from marketlake.readmodels.staleness import unreported_sessions
    from marketlake.storage.lake import Lake

    absent = unreported_sessions(Lake(settings.lake), sessions)
    typer.echo(f"{len(absent)} of {len(sessions)} sessions are missing")
    for stretch in _stretches(sessions, absent):
        _sessions(settings, api, stretch, reprocess="failed")


def _stale_sessions(settings: Settings, api: AirflowApi, sessions: list[date]) -> None:
    """Redo what was made from something replaced since, oldest first, until nothing is stale."""
    from marketlake.readmodels.staleness import stale_artifacts
    from marketlake.storage.lake import Lake

    # Neighbours are redone side by side, so one may read another before it is new: look again.
    for _ in sessions:
        found = stale_artifacts(Lake(settings.lake), sessions)
        if not found:
            typer.echo("nothing is stale")
            return
        for item in found:
            typer.echo(f"stale: {item.session} {item.contract}, because {item.parent} changed")
        for stretch in _stretches(sessions, sorted({item.session for item in found})):
            _sessions(settings, api, stretch, reprocess="completed")
    raise Stale(
        expected="nothing stale after as many passes as there are sessions",
        was=", ".join(sorted({str(item.session) for item in found})),
        where=f"{sessions[0]} to {sessions[-1]}",
        todo="something republishes these sessions' inputs: pause it, then try again",
    )


def _stretches(sessions: list[date], wanted: list[date]) -> list[list[date]]:
    """Split the wanted sessions into runs of neighbours: a backfill takes a range."""
    stretches: list[list[date]] = []
    for before, session in zip([None, *sessions], sessions, strict=False):
        if session not in wanted:
            continue
        if stretches and stretches[-1][-1] == before:
            stretches[-1].append(session)
        else:
            stretches.append([session])
    return stretches


def _require_created(progress: list[SessionProgress]) -> None:
    absent = [str(session.session) for session in progress if not session.runs]
    if absent:
        raise MissingPartition(
            expected="Airflow to have made a run for every session of the range",
            was=f"none for {', '.join(absent)}",
            where="ingest_market_data",
            todo="sessions outside the market, or not yet over, have no run: narrow the range",
        )


def _fail(failures: list[FailedTask]) -> None:
    for failure in failures:
        session = f" {failure.session}" if failure.session else ""
        typer.echo(f"FAILED {failure.dag_id}.{failure.task_id}{session}", err=True)
        typer.echo(f"  {failure.error}", err=True)
        typer.echo(f"  log: {failure.log}", err=True)
    raise typer.Exit(1)


@dataclass
class _Progress:
    """A live table on a terminal; elsewhere one line for each change."""

    _console: Console = field(init=False)
    _live: Any = field(init=False, default=None)
    _said: set[tuple[str, ...]] = field(init=False, default_factory=set)

    def __enter__(self) -> _Progress:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def tell_sessions(self, progress: list[SessionProgress]) -> None:
        """Show one row a session, one column a DAG."""
        if self._live is not None:
            self._live.update(_session_table(progress))
            return
        for session in progress:
            for run in session.runs:
                if run.state in ("success", "failed"):
                    took = f"{run.seconds:.1f} s" if run.seconds is not None else ""
                    self._say(f"{session.session} {run.dag_id:<22} {run.state} {took}", run.run_id)

    def tell_tasks(self, label: str, tasks: list[dict[str, Any]]) -> None:
        """Show how many tasks of a run are in each state."""
        counts: dict[str, int] = {}
        for task in tasks:
            state = task["state"] or "waiting"
            counts[state] = counts.get(state, 0) + 1
        text = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
        if self._live is not None:
            self._live.update(f"{label}  {text}")
            return
        for task in tasks:
            if task["state"] in ("success", "failed"):
                took = f"{task['duration']:.1f} s" if task["duration"] is not None else ""
                name = f"{task['task_id']}[{task['map_index']}]".replace("[-1]", "")
                self._say(f"{task['dag_id']}.{name} {task['state']} {took}", task["id"])

    def _say(self, line: str, *key: str) -> None:
        if key not in self._said:
            self._said.add(key)
            typer.echo(line)


def _session_table(progress: list[SessionProgress]) -> Table:
    from rich.table import Table

    from marketlake.services.platform.following import DAILY_CHAIN

    table = Table(box=None, pad_edge=False)
    table.add_column("session")
    for dag_id in DAILY_CHAIN:
        table.add_column(dag_id)
    for session in progress:
        cells = [_MARKS.get(run.state, run.state) for run in session.runs]
        table.add_row(str(session.session), *cells, *[""] * (len(DAILY_CHAIN) - len(cells)))
    return table


def _print_summary(settings: Settings, seconds: float) -> None:
    from marketlake.cli.summary import print_summary

    print_summary(settings, seconds)
