"""How each source stands, kept between runs and between tasks that ask it side by side.

One JSON document a source, in the warehouse database's schema ``ops``. What does not belong here:
what a document says (``sources.availability``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from marketlake.storage.warehouse import Warehouse, lock

State = dict[str, Any]

_TABLE = "ops.source_state"
_CREATE = f"""
    create schema if not exists ops;
    create table if not exists {_TABLE} (
        name text primary key,
        state jsonb,
        updated_at timestamptz not null default now()
    )
"""


class SourceStates:
    """The documents of all sources. The table is made when it is first used."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    def read(self, name: str) -> State | None:
        """Return a source's document, or None when nothing was kept yet."""
        with self._warehouse.transaction() as connection:
            _ensure_table(connection)
            row = connection.execute(
                f"select state from {_TABLE} where name = %s",  # noqa: S608
                (name,),
            ).fetchone()
        return row[0] if row else None

    def update(self, name: str, change: Callable[[State | None], State]) -> State:
        """Replace a source's document by what ``change`` makes of it, and return that.

        Changes of one source take turns, so none is lost; a ``change`` that raises changes nothing.
        """
        with self._warehouse.transaction() as connection:
            _ensure_table(connection)
            # A row must be there to be locked.
            connection.execute(
                f"insert into {_TABLE} (name) values (%s) on conflict do nothing",  # noqa: S608
                (name,),
            )
            row = connection.execute(
                f"select state from {_TABLE} where name = %s for update",  # noqa: S608
                (name,),
            ).fetchone()
            state = change(row[0] if row else None)
            connection.execute(
                f"update {_TABLE} set state = %s, updated_at = now() where name = %s",  # noqa: S608
                (Jsonb(state), name),
            )
        return state


def _ensure_table(connection: psycopg.Connection) -> None:
    there = connection.execute("select to_regclass(%s)", (_TABLE,)).fetchone()
    if there is None or there[0] is None:
        # "if not exists" alone does not keep two creators from clashing.
        lock(connection, _TABLE)
        connection.execute(_CREATE)
