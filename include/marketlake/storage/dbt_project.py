"""Run the dbt project: one build in this process, for one session or for everything.

Belongs here: how dbt is called, how its failures are named, and what it makes of which columns.
Does not belong: SQL (``dbt/``) and loading the tables that it reads
(:mod:`marketlake.storage.warehouse`).

dbt keeps global state, so a process should build once; tasks are processes of their own.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from marketlake.contracts.catalog import CATALOG
from marketlake.contracts.lineage import ColumnLineage, InputColumn
from marketlake.errors import ConfigError, ContractViolation, GateFailed, SourceUnavailable
from marketlake.settings import PROJECT_ROOT, Settings
from marketlake.storage.warehouse import Warehouse

PROJECT = PROJECT_ROOT / "dbt"

PRELOAD = (
    "dbt.cli.main",
    "dbt.adapters.postgres",
    "dbt.task.build",
    "dbt.task.test",
    "dbt.parser.manifest",
)
"""Modules that an executor may import once, so that each forked task need not."""

_OF_A_RUN = frozenset(
    {
        "build_path",
        "compiled_path",
        "created_at",
        "env",
        "generated_at",
        "invocation_id",
        "invocation_started_at",
        "root_path",
        "run_started_at",
        "user_id",
    }
)
_INPUTS = ("*.sql", "*.yml", "*.csv")
_GOOD = frozenset({"success", "pass", "warn"})
_DEAD_CONNECTION = (
    "could not connect",
    "connection refused",
    "connection timed out",
    "server closed the connection",
    "terminating connection",
    "the database system is",
    "connection already closed",
)


@dataclass(frozen=True)
class Model:
    """A relation that dbt makes, ``schema.name``, and which source columns its columns come from.

    ``columns`` has what the project says of each: its name, its type and description if given.
    """

    relation: str
    columns: tuple[Mapping[str, str], ...]
    lineage: ColumnLineage


def build(
    settings: Settings,
    *,
    select: str | None,
    session: date | None,
    target_dir: Path,
    full_refresh: bool = False,
) -> dict[str, Any]:
    """Build and test the models; return the ``nodes`` and ``engine`` of ``core_warehouse__build``.

    With a ``session``, only that session's rows are replaced, unless the tables do not exist yet
    or were made by other SQL: then, as without a session, everything is built from scratch.
    ``select`` narrows the build to a dbt selection. dbt's log and compiled SQL go to
    ``target_dir``, and so do its manifest and run results unless only a session is built: an error
    names the folder, so it should outlive the build.

    Raises
    ------
    GateFailed
        When a test fails; the message names each and its number of failing rows.
    SourceUnavailable
        When Postgres cannot be reached or goes away.
    ContractViolation
        When a model does not build, for example because it breaks its own contract.
    ConfigError
        When dbt does not accept the project.
    """
    fingerprint = project_fingerprint()
    if session is not None and not full_refresh and select is None:
        full_refresh = _recorded_fingerprint(settings) != fingerprint
    only = None if full_refresh else session
    options = _selection(select, only)
    if full_refresh:
        options.append("--full-refresh")
    whole = only is None and select is None
    variables = {
        "session": only and only.isoformat(),
        "fingerprint": fingerprint if whole else None,
    }
    with _environment(settings):
        outcome = _invoke(
            ["build", *options, "--vars", json.dumps(variables)],
            target_dir=target_dir,
            manifest=_manifest(settings, fingerprint, target_dir),
        )
    nodes = [_node(item) for item in getattr(outcome.result, "results", None) or ()]
    if not outcome.success:
        raise _failure(nodes, outcome.exception, target_dir)
    return {"nodes": nodes, "engine": _engine()}


def models(settings: Settings, *, target_dir: Path) -> dict[str, Model]:
    """Return every model of the project by dbt's id; sources are contracts' tables and seeds.

    Read off the compiled SQL once for each state of the project, and kept beside its parse.
    Errors are those of :func:`build`, and ConfigError for SQL whose columns cannot be followed.
    """
    fingerprint = project_fingerprint()
    kept = _kept_models(settings, fingerprint)
    if not kept.is_file():
        with _environment(settings):
            manifest = _manifest(settings, fingerprint, target_dir)
            variables = json.dumps({"session": None, "fingerprint": None})
            outcome = _invoke(
                ["compile", "--no-populate-cache", "--no-write-json", "--vars", variables],
                target_dir=target_dir,
                manifest=manifest,
            )
        if not outcome.success:
            raise _failure([], outcome.exception, target_dir)
        _keep(kept, json.dumps(_followed(manifest, outcome.result.results)).encode())
    return {
        unique_id: Model(
            one["relation"],
            tuple(one["columns"]),
            ColumnLineage(
                {
                    name: tuple(InputColumn(*item) for item in inputs)
                    for name, inputs in one["inputs"].items()
                },
                tuple(InputColumn(*item) for item in one["rows"]),
            ),
        )
        for unique_id, one in json.loads(kept.read_bytes()).items()
    }


def docs_page(settings: Settings, *, target_dir: Path) -> tuple[bytes, dict[str, Any]]:
    """Return dbt's documentation site as one page, and the ``contents`` of ``out_docs__dbt``.

    The page is what ``dbt docs generate --static`` writes, less what differs from one run to the
    next (times, ids, folders of this machine): the same project over the same tables gives the
    same bytes. Errors are those of :func:`build`.
    """
    with _environment(settings):
        outcome = _invoke(
            ["docs", "generate", "--vars", json.dumps({"session": None, "fingerprint": None})],
            target_dir=target_dir,
            manifest=_manifest(settings, project_fingerprint(), target_dir),
        )
    if not outcome.success:
        raise _failure([], outcome.exception, target_dir)
    manifest, catalog = (
        json.loads((target_dir / f"{name}.json").read_bytes(), object_hook=_without_run)
        for name in ("manifest", "catalog")
    )
    page = (target_dir / "index.html").read_text(encoding="utf-8")
    for placeholder, document in (
        ('"MANIFEST.JSON INLINE DATA"', manifest),
        ('"CATALOG.JSON INLINE DATA"', catalog),
    ):
        if page.count(placeholder) != 1:
            raise ConfigError(
                expected=f"one place for {placeholder} in dbt's page",
                was=str(page.count(placeholder)),
                where=f"{_engine()}, {target_dir / 'index.html'}",
                todo="dbt changed its page: adapt storage/dbt_project.py",
            )
        # A description may hold "</script>", which would end the data early.
        text = json.dumps(document, sort_keys=True).replace("<", "\\u003c")
        page = page.replace(placeholder, text)
    return page.encode(), _contents(manifest, catalog)


def warm(settings: Settings) -> None:
    """Do what dbt does once in every process; an executor calls it before it forks its tasks.

    It imports, derives JSON schemas, reads the kept parse of the project (if there is one) and
    compiles its macros, so that dbt's classes and templates have generated their code. It runs no
    dbt command and opens no connection.
    """
    for module in PRELOAD:
        importlib.import_module(module)
    # An adapter looks up who calls it, for which Python maps every loaded module to its file.
    inspect.stack()
    from dbt.adapters.postgres.connections import PostgresCredentials
    from dbt.clients.jinja import MacroGenerator
    from dbt.contracts import project, selection

    for shape in (
        PostgresCredentials,
        project.Configuration,
        project.PackageConfig,
        project.ProfileConfig,
        project.Project,
        project.ProjectFlags,
        selection.SelectorFile,
    ):
        shape.json_schema()
    kept = _kept_manifest(settings, project_fingerprint())
    if kept.is_file():
        manifest = _read_manifest(kept)
        for macro in manifest.macros.values():
            MacroGenerator(macro).get_template()
        for node in (*manifest.nodes.values(), *manifest.sources.values()):
            node.to_dict()


def project_fingerprint() -> str:
    """Return a hash of every file that decides what the project builds, and of dbt's version."""
    digest = hashlib.sha256(_engine().encode())
    for path in sorted(path for pattern in _INPUTS for path in PROJECT.rglob(pattern)):
        digest.update(path.relative_to(PROJECT).as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _engine() -> str:
    return f"dbt {version('dbt-core')}, dbt-postgres {version('dbt-postgres')}"


def _recorded_fingerprint(settings: Settings) -> str | None:
    """Return the hash that the last successful build of everything left on the marts."""
    rows = Warehouse(settings.postgres).query(
        "select obj_description(to_regnamespace('marts'), 'pg_namespace') as fingerprint"
    )
    recorded: str | None = rows[0]["fingerprint"]
    return recorded


def _selection(select: str | None, session: date | None) -> list[str]:
    if select is not None:
        return ["--select", select]
    if session is None:
        return []
    # Seeds, staging views and unit tests change with the project, not with a session; so does the
    # manifest, and writing it out would take longer than building the session.
    return ["--select", "tag:session", "--exclude-resource-type", "unit_test", "--no-write-json"]


@contextmanager
def _environment(settings: Settings) -> Iterator[None]:
    """Give dbt's profile its connection for the time of one invocation."""
    postgres = settings.postgres
    wanted = {
        "MARKETLAKE_POSTGRES__HOST": postgres.host,
        "MARKETLAKE_POSTGRES__PORT": str(postgres.port),
        "MARKETLAKE_POSTGRES__USER": postgres.user,
        "MARKETLAKE_POSTGRES__WAREHOUSE_DB": postgres.warehouse_db,
        "MARKETLAKE_POSTGRES__CONNECT_TIMEOUT_S": str(postgres.connect_timeout_s),
        "DBT_ENV_SECRET_POSTGRES_PASSWORD": postgres.password.get_secret_value(),
        "DO_NOT_TRACK": "1",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _invoke(arguments: Sequence[str], *, target_dir: Path, manifest: Any) -> Any:
    # Imported here: dbt takes seconds to import, and only a build should pay.
    from dbt.cli.main import dbtRunner

    return dbtRunner(manifest=manifest).invoke(
        [
            *arguments,
            "--project-dir",
            str(PROJECT),
            "--profiles-dir",
            str(PROJECT),
            "--target-path",
            str(target_dir),
            "--log-path",
            str(target_dir / "logs"),
            "--log-level",
            "none",
            "--log-level-file",
            "info",
            "--no-partial-parse",
            "--no-print",
        ]
    )


def _manifest(settings: Settings, fingerprint: str, target_dir: Path) -> Any:
    """Return the parsed project, kept beside the platform's state: parsing costs seconds."""
    from dbt.parser.manifest import extended_mashumaro_encoder

    kept = _kept_manifest(settings, fingerprint)
    if kept.is_file():
        return _read_manifest(kept)
    outcome = _invoke(["parse"], target_dir=target_dir, manifest=None)
    if not outcome.success:
        raise _failure([], outcome.exception, target_dir)
    _keep(kept, outcome.result.to_msgpack(extended_mashumaro_encoder))
    return outcome.result


def _keep(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(f".{os.getpid()}")
    written.write_bytes(content)
    written.replace(path)


def _kept_manifest(settings: Settings, fingerprint: str) -> Path:
    # The parsed project names its database, so each database has a file of its own.
    name = f"manifest-{settings.postgres.warehouse_db}-{fingerprint[:16]}.msgpack"
    return settings.home / "dbt" / name


def _kept_models(settings: Settings, fingerprint: str) -> Path:
    # By what reads the SQL too; its files, because importing it costs more than all the rest.
    digest = hashlib.sha256(f"{fingerprint} {version('sqlglot')} ".encode())
    for name in ("column_lineage.py", "dbt_project.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    return settings.home / "dbt" / f"models-{digest.hexdigest()[:16]}.json"


def _followed(manifest: Any, results: Sequence[Any]) -> dict[str, Any]:
    """Return :func:`models` as JSON; dbt compiles a model after those it reads."""
    # Imported here: parsing SQL takes most of a CPU second to import.
    from marketlake.storage.column_lineage import lineage_of_models

    sources = {
        f"{contract.layer}.{contract.table}": [item.name for item in contract.fields]
        for contract in CATALOG
        if contract.warehouse
    }
    for node in manifest.nodes.values():
        if node.resource_type == "seed":
            header, _ = (PROJECT / node.original_file_path).read_text("utf-8").split("\n", 1)
            sources[f"{node.schema}.{node.alias}"] = header.split(",")
    compiled = {
        f"{item.node.schema}.{item.node.alias}": item.node
        for item in results
        if item.node.resource_type == "model"
    }
    followed = lineage_of_models(
        {relation: node.compiled_code for relation, node in compiled.items()}, sources
    )
    return {
        compiled[relation].unique_id: {
            "relation": relation,
            "columns": [_said(compiled[relation], name) for name in lineage.columns],
            "inputs": {
                name: [astuple(item) for item in inputs] for name, inputs in lineage.columns.items()
            },
            "rows": [astuple(item) for item in lineage.rows],
        }
        for relation, lineage in followed.items()
    }


def _said(node: Any, name: str) -> dict[str, str]:
    said = node.columns.get(name)
    told = {"type": said.data_type, "description": said.description} if said else {}
    return {"name": name, **{key: text for key, text in told.items() if text}}


def _read_manifest(path: Path) -> Any:
    from dbt.contracts.graph.manifest import Manifest
    from dbt.parser.manifest import extended_mashumuro_decoder

    return Manifest.from_msgpack(path.read_bytes(), decoder=extended_mashumuro_decoder)


def _without_run(value: dict[str, Any]) -> dict[str, Any]:
    """Leave out of dbt's JSON what tells one run from another."""
    return {name: cell for name, cell in value.items() if name not in _OF_A_RUN}


def _contents(manifest: Mapping[str, Any], catalog: Mapping[str, Any]) -> dict[str, Any]:
    kinds = Counter(node["resource_type"] for node in manifest["nodes"].values())
    return {
        "nodes": dict(sorted((kinds | Counter(source=len(manifest["sources"]))).items())),
        "relations": [
            {
                "name": f"{table['metadata']['schema']}.{table['metadata']['name']}",
                "columns": len(table["columns"]),
            }
            for _, table in sorted((catalog["sources"] | catalog["nodes"]).items())
        ],
        "engine": _engine(),
    }


def _node(item: Any) -> dict[str, Any]:
    return {
        "id": item.node.unique_id,
        "status": str(item.status),
        "seconds": round(item.execution_time, 3),
        "message": item.message,
        "failing_rows": item.failures,
    }


def _failure(
    nodes: Sequence[Mapping[str, Any]], exception: BaseException | None, target_dir: Path
) -> ConfigError | ContractViolation | GateFailed | SourceUnavailable:
    """Return the error that says best what went wrong; a dead database explains all the rest."""
    where = f"dbt build of {PROJECT}, log in {target_dir / 'logs'}"
    broken = [node for node in nodes if node["status"] == "error"]
    failed = [node for node in nodes if node["status"] not in _GOOD and node not in broken]
    texts = [str(node["message"]) for node in broken] + ([str(exception)] if exception else [])
    if any(sign in text.lower() for text in texts for sign in _DEAD_CONNECTION):
        return SourceUnavailable(
            expected="Postgres to answer dbt",
            was=texts[0],
            where=where,
            todo="start the platform's Postgres (`marketlake status`), then try again",
        )
    if broken:
        return ContractViolation(
            expected="every model to build",
            was="; ".join(f"{node['id']}: {node['message']}" for node in broken),
            where=where,
            todo="correct the model, or the contract of what it reads",
        )
    if failed:
        return GateFailed(
            expected="every dbt test to pass",
            was="; ".join(
                f"{node['id']}: {node['message']}" for node in failed if node["status"] != "skipped"
            ),
            where=where,
            todo="read the failing rows with the test's SQL; what depends on it was not built",
        )
    return ConfigError(
        expected="dbt to accept the project",
        was=str(exception),
        where=where,
        todo="run `dbt parse --project-dir dbt --profiles-dir dbt` and correct what it names",
    )
