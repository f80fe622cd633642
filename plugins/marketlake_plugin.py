"""What Airflow must know by name. Runs in every component and every task: keep it small."""

from collections.abc import Awaitable, Callable
from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin
from marketlake.orchestration.timetable import ExchangeSessionTimetable


async def pages(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[Any]],
    send: Callable[[Any], Awaitable[None]],
) -> None:
    """Serve the published pages; they are imported at the first request, not in every task."""
    from marketlake.orchestration.pages import app

    await app(scope, receive, send)


class TaskEnds:
    """Hears of every failed task, in whichever component Airflow finds it out."""

    @hookimpl
    def on_task_instance_failed(self, task_instance: Any, error: object) -> None:
        """Record it in the ledger; what that takes is imported at a failure, not in every task."""
        from marketlake.orchestration.task_ends import record_failure

        record_failure(task_instance, error)


def _link(name: str, place: str) -> dict[str, str]:
    route = f"marketlake-{name.replace(' ', '-').lower()}"
    return {
        "name": name,
        "href": f"/marketlake/{place}",
        "url_route": route,
        "destination": "nav",
        "category": "browse",
    }


class MarketlakePlugin(AirflowPlugin):
    """Marketlake's registrations."""

    # Lists are the shape that Airflow asks for.
    name = "marketlake"
    timetables = [ExchangeSessionTimetable]  # noqa: RUF012
    listeners = [TaskEnds()]  # noqa: RUF012
    fastapi_apps = [  # noqa: RUF012
        {"app": pages, "url_prefix": "/marketlake", "name": "Marketlake pages"}
    ]
    external_views = [  # noqa: RUF012
        _link("Daily report", "reports/"),
        _link("Data integrity", "integrity/"),
        _link("Training", "training/"),
        _link("Data quality", "docs/quality/"),
        _link("Warehouse docs", "docs/dbt/"),
    ]
