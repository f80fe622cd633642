"""What Airflow must know by name. Runs in every component and every task: keep it small."""

from collections.abc import Awaitable, Callable
from typing import Any

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
