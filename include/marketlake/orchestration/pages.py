"""Published pages inside Airflow's UI: the reports, dbt's documentation, the quality gates.

Airflow's own login guards every page. A page is shown as it was published, hash checked, and in a
sandbox: whatever its scripts or a vendor's text in it may try, they reach neither Airflow's cookie
nor any other host. What does not belong here: making pages (``pipelines``).
"""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING

from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse

from marketlake.errors import ConfigError, MarketlakeError, MissingPartition
from marketlake.settings import current_settings

if TYPE_CHECKING:
    from marketlake.storage.lake import Lake

_STILL = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; "
    "frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
)
# dbt's page is one script that compiles its own templates.
_SCRIPTED = _STILL.replace("sandbox;", "sandbox allow-scripts;").replace(
    "default-src 'none';", "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval';"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",
}

app = FastAPI(
    title="Marketlake pages",
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    dependencies=[Depends(get_user)],
)


@app.get("/docs/dbt/")
def dbt_docs() -> HTMLResponse:
    """Show dbt's documentation as it was published last."""
    return _page("out_docs__dbt", policy=_SCRIPTED)


@app.get("/docs/quality/")
def quality_docs() -> HTMLResponse:
    """Show the quality gates as they were published last."""
    return _page("out_docs__quality")


@app.get("/reports/")
def newest_report() -> HTMLResponse:
    """Show the newest session's report."""
    return _page("out_reports__daily")


@app.get("/reports/{session}")
def report(session: date) -> HTMLResponse:
    """Show one session's report."""
    return _page(f"out_reports__daily/{session.isoformat()}")


@app.get("/integrity/")
def newest_integrity() -> HTMLResponse:
    """Show the newest session's data integrity."""
    return _page("out_reports__integrity")


@app.get("/integrity/{session}")
def integrity(session: date) -> HTMLResponse:
    """Show one session's data integrity."""
    return _page(f"out_reports__integrity/{session.isoformat()}")


@app.get("/training/")
def newest_training() -> HTMLResponse:
    """Show the newest training's report."""
    return _page("out_reports__training")


@app.get("/training/{as_of}")
def training(as_of: date) -> HTMLResponse:
    """Show the report of the training as of a session."""
    return _page(f"out_reports__training/{as_of.isoformat()}")


@app.exception_handler(MarketlakeError)
def explain(_: Request, error: Exception) -> PlainTextResponse:
    """Say in words what is missing, and what to do about it."""
    status = 404 if isinstance(error, MissingPartition | ConfigError) else 503
    return PlainTextResponse(f"{error}\n", status_code=status, headers=_HEADERS)


def _page(name: str, *, policy: str = _STILL) -> HTMLResponse:
    from marketlake.readmodels import published

    lake = _lake()
    contract, partition = published.resolve(lake, name)
    body = published.export_bytes(lake, contract, partition)
    return HTMLResponse(body, headers=_HEADERS | {"Content-Security-Policy": policy})


@lru_cache(maxsize=1)
def _lake() -> Lake:
    # Imported at the first page: Arrow costs an api-server memory that it may never need.
    from marketlake.storage.lake import Lake

    return Lake(current_settings().lake)
