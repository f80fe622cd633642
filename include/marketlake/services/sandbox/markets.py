"""Which market the settings name. What does not belong here: how any of them is made."""

from __future__ import annotations

import csv

from marketlake.calendars import Calendar
from marketlake.errors import ConfigError
from marketlake.services.sandbox.macro import with_macro
from marketlake.services.sandbox.packaged import packaged_world
from marketlake.services.sandbox.world import World
from marketlake.settings import Settings


def world_of(settings: Settings) -> World:
    """Build the market of the settings."""
    market, seed = settings.market, settings.sandbox.seed
    if market.name == "packaged":
        packaged = packaged_world(seed, benchmark=market.benchmark)
        return with_macro(packaged, seed=seed, benchmark=market.benchmark)
    if market.name == "generated":
        from marketlake.services.sandbox.generated import generated_world

        with market.universe_file.open(newline="") as file:
            symbols = list(dict.fromkeys(row["symbol"] for row in csv.DictReader(file)))
        calendar = Calendar.of(market.calendar)
        generated = generated_world(
            seed,
            symbols=symbols,
            benchmark=market.benchmark,
            calendar=calendar,
            first=market.first_session,
        )
        return with_macro(generated, seed=seed, benchmark=market.benchmark)
    if settings.sandbox.data is None:
        raise ConfigError(
            expected="a folder of Parquet files for the market 'folder'",
            was="MARKETLAKE_SANDBOX__DATA is not set",
            where="settings",
            todo="set it to the folder, or choose another MARKETLAKE_MARKET__NAME",
        )
    # Polars costs most of a second to import and only this market needs it.
    from marketlake.services.sandbox.folder import folder_world

    return folder_world(settings.sandbox.data)
