"""Which sources there are. What does not belong here: anything that one of them does."""

from __future__ import annotations

from importlib import import_module

from marketlake.errors import ConfigError
from marketlake.settings import Settings
from marketlake.sources.source import Source

SOURCES = ("yahoo", "alpha_vantage", "iex", "fred", "stooq")
"""Every source by its name, which is its module's."""


ONE_VENUE = frozenset({"iex"})
"""Sources whose volume is one exchange's."""


def open_source(name: str, settings: Settings) -> Source:
    """Return one source as these settings reach it; its client is imported now, not before."""
    if name not in SOURCES:
        raise ConfigError(
            expected=f"a source of {', '.join(SOURCES)}",
            was=name,
            where="sources",
            todo="correct the name, or add the source (docs/adding-a-source.md)",
        )
    opened = import_module(f"marketlake.sources.{name}").source(settings)
    assert isinstance(opened, Source)  # noqa: S101  # what every module of SOURCES returns
    return opened


def configured(settings: Settings) -> tuple[str, ...]:
    """Return the market's sources that have their credentials, without importing their clients."""
    keys = {
        "alpha_vantage": (settings.alpha_vantage.api_key,),
        "iex": (settings.iex.api_key, settings.iex.secret_key),
    }
    return tuple(name for name in settings.market.sources if all(keys.get(name, ())))
