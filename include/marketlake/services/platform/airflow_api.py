"""Airflow's REST API, as much of it as the command line needs.

What does not belong: decisions about what to run (``cli``), and anything that imports airflow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import httpx

from marketlake.errors import AuthFailed, BadPayload, ConfigError, NotFound, SourceUnavailable
from marketlake.settings import AirflowSettings

_PAGE = 100


class AirflowApi:
    """A logged-in client; the token is fetched at the first call."""

    def __init__(self, settings: AirflowSettings) -> None:
        self.settings = settings
        # No proxy and no bundle of the shell may stand before our own address.
        self._http = httpx.Client(
            base_url=settings.base_url, timeout=settings.timeout_s, trust_env=False
        )
        self._token: str | None = None

    def __enter__(self) -> Self:
        """Return itself; leaving closes the connections."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._http.close()

    def health(self) -> dict[str, Any]:
        """Return the monitor's answer: one entry a component."""
        return self._call("GET", "/api/v2/monitor/health", anonymous=True)

    def ensure_pool(self, name: str, *, slots: int, description: str) -> None:
        """Create the pool, or give the existing one these slots."""
        body = {"name": name, "slots": slots, "description": description, "include_deferred": True}
        try:
            self._call("GET", f"/api/v2/pools/{name}")
        except NotFound:
            self._call("POST", "/api/v2/pools", body=body)
            return
        self._call("PATCH", f"/api/v2/pools/{name}", body=body)

    def dags(self) -> dict[str, dict[str, Any]]:
        """Return the parsed DAGs by id."""
        return {str(dag["dag_id"]): dag for dag in self._pages("/api/v2/dags", "dags")}

    def import_errors(self) -> list[dict[str, Any]]:
        """Return why DAG files could not be parsed."""
        return list(self._pages("/api/v2/importErrors", "import_errors"))

    def trigger(
        self,
        dag_id: str,
        *,
        conf: Mapping[str, Any] | None = None,
        partition_key: str | None = None,
    ) -> str:
        """Start a run and return its id."""
        body: dict[str, Any] = {"logical_date": None, "conf": dict(conf or {})}
        if partition_key is not None:
            body["partition_key"] = partition_key
        answer = self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body=body)
        return str(answer["dag_run_id"])

    def runs(self, dag_id: str = "~", **filters: str) -> list[dict[str, Any]]:
        """Return the runs of a DAG (``~``: of all), oldest first."""
        path = f"/api/v2/dags/{dag_id}/dagRuns"
        return list(self._pages(path, "dag_runs", order_by="id", **filters))

    def active_backfills(self, dag_id: str) -> list[dict[str, Any]]:
        """Return the DAG's backfills that are not completed."""
        rows = self._pages("/api/v2/backfills", "backfills", dag_id=dag_id)
        return [row for row in rows if row["completed_at"] is None]

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return one run."""
        return self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")

    def clear_failed(self, dag_id: str, run_id: str) -> None:
        """Let a run's failed tasks, and what waits for them, run again."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/clear"
        self._call("POST", path, body={"dry_run": False, "only_failed": True})

    def clear(self, dag_id: str, run_id: str, *, task_ids: Sequence[str]) -> None:
        """Let tasks of a run, and what follows them in it, run again."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": list(task_ids),
            "include_downstream": True,
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self._call("POST", f"/api/v2/dags/{dag_id}/clearTaskInstances", body=body)

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of one run."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        return list(self._pages(path, "task_instances"))

    def task_instances(self, state: str) -> list[dict[str, Any]]:
        """Return the task instances of every run that are in this state."""
        path = "/api/v2/dags/~/dagRuns/~/taskInstances"
        return list(self._pages(path, "task_instances", state=state))

    def pools(self) -> list[dict[str, Any]]:
        """Return the pools with their slots, open and occupied."""
        return list(self._pages("/api/v2/pools", "pools"))

    def log(self, task: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the structured log lines of a task instance's last try."""
        path = (
            f"/api/v2/dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}"
            f"/taskInstances/{task['task_id']}/logs/{max(int(task['try_number']), 1)}"
        )
        answer = self._call(
            "GET", path, params={"map_index": str(task["map_index"]), "full_content": "true"}
        )
        content = answer.get("content", [])
        return [line for line in content if isinstance(line, dict)]

    def _pages(self, path: str, member: str, **params: str) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            page = {"limit": str(_PAGE), "offset": str(offset), **params}
            rows = self._call("GET", path, params=page)[member]
            yield from rows
            offset += len(rows)
            if len(rows) < _PAGE:
                return

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        anonymous: bool = False,
    ) -> dict[str, Any]:
        headers = {} if anonymous else {"Authorization": f"Bearer {self._login()}"}
        answer = self._send(method, path, json=body, params=params, headers=headers)
        if answer.status_code == httpx.codes.UNAUTHORIZED and not anonymous:
            self._token = None  # expired, or Airflow was restarted with another key
            headers = {"Authorization": f"Bearer {self._login()}"}
            answer = self._send(method, path, json=body, params=params, headers=headers)
        return _content(answer)

    def _login(self) -> str:
        if self._token is None:
            answer = self._send(
                "POST",
                "/auth/token",
                json={
                    "username": self.settings.user,
                    "password": self.settings.password.get_secret_value(),
                },
            )
            self._token = str(_content(answer)["access_token"])
        return self._token

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise SourceUnavailable(
                expected="Airflow's api-server to answer",
                was=f"{type(error).__name__}: {error}",
                where=f"{self.settings.base_url}{path}",
                todo="`marketlake status` shows what runs, `marketlake up` starts it",
            ) from error


def _content(answer: httpx.Response) -> dict[str, Any]:
    place = f"{answer.request.method} {answer.request.url}"
    if answer.is_success:
        if answer.status_code == httpx.codes.NO_CONTENT:
            return {}
        content = answer.json()
        if isinstance(content, dict):
            return content
        raise BadPayload(
            expected="a JSON object",
            was=type(content).__name__,
            where=place,
            todo="check that this address is Airflow's",
        )
    was = f"{answer.status_code}: {answer.text[:500]}"
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise AuthFailed(
            expected="the generated admin login to be accepted",
            was=was,
            where=place,
            todo="`marketlake down`, then `marketlake up` restarts Airflow with the current login",
        )
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise NotFound(
            expected="something at this address", was=was, where=place, todo="check the name"
        )
    if answer.is_server_error:
        raise SourceUnavailable(
            expected="an answer from Airflow",
            was=was,
            where=place,
            todo="`marketlake logs api-server` says more",
        )
    raise ConfigError(
        expected="a request Airflow accepts", was=was, where=place, todo="correct the parameters"
    )
