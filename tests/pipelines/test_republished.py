"""What happens to later days when earlier ones are published again, compacted, or still missing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from marketlake.calendars import Calendar
from marketlake.contracts.catalog import (
    CORE_FEATURES_DAILY,
    CORE_MARKET_DAILY_BAR,
    CORE_MODELS_MODEL,
    CORE_MODELS_PROMOTION,
    CORE_SIGNALS_SIGNAL,
)
from marketlake.errors import ConfigError, MissingPartition
from marketlake.pipelines import (
    archive_lake,
    build_warehouse,
    daily_line,
    predict_signals,
)
from marketlake.pipelines.context import RunContext, open_context
from marketlake.readmodels.staleness import stale_artifacts, unreported_sessions
from marketlake.settings import Settings
from marketlake.storage.lake import Lake
from marketlake.types import Partition, RunIdentity

FIRST, SECOND = date(2022, 12, 21), date(2022, 12, 22)
THROUGH = date(2022, 12, 20)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def own(make_line: Callable[..., Settings]) -> Settings:
    settings = make_line(first_session=date(2020, 1, 2))
    daily_line.prepare(settings, THROUGH, run_id="own-history")
    daily_line.train(settings, date(2022, 11, 30), run_id="own-training")
    return settings


def step(settings: Settings, name: str, run_id: str) -> RunContext:
    with open_context(settings, RunIdentity("republished", run_id, name)) as ctx:
        return ctx


def test_a_gate_waits_for_the_sources_of_earlier_sessions_and_a_mart_for_their_bars(
    own: Settings,
) -> None:
    daily_line.ingest_session(own, SECOND, run_id="second")
    with pytest.raises(MissingPartition, match=str(FIRST)):
        daily_line.validate_session(own, SECOND, run_id="too early")
    daily_line.ingest_session(own, FIRST, run_id="first")
    daily_line.validate_session(own, SECOND, run_id="second")
    with pytest.raises(MissingPartition, match=str(FIRST)):
        build_warehouse.load(step(own, "load", "too early"), SECOND)


def test_after_the_line_has_run_nothing_is_missing_or_stale(own: Settings) -> None:
    for session in (FIRST, SECOND):
        daily_line.run_session(own, session, run_id=f"own-{session}")
    lake = Lake(own.lake)
    assert unreported_sessions(lake, [FIRST, SECOND]) == []
    assert stale_artifacts(lake, [FIRST, SECOND]) == []


def test_compaction_loses_no_session_changes_no_row_and_makes_nothing_stale(own: Settings) -> None:
    lake = Lake(own.lake)
    sessions = Calendar.of("XNYS").sessions(date(2022, 1, 3), SECOND)
    before = lake.read(CORE_MARKET_DAILY_BAR, sessions, as_of=SECOND)
    archive_lake.compact(step(own, "compact", "one"), date(2022, 6, 30))
    year = lake.manifest(CORE_MARKET_DAILY_BAR, Partition.of_year(2022))
    assert [date.fromisoformat(day) for day in year.sessions] == sessions
    assert lake.read(CORE_MARKET_DAILY_BAR, sessions, as_of=SECOND).equals(before)
    assert stale_artifacts(lake, [FIRST, SECOND]) == []


def test_a_shorter_history_loaded_again_loses_no_session(own: Settings) -> None:
    lake = Lake(own.lake)
    before = lake.published_sessions(CORE_FEATURES_DAILY)
    daily_line.prepare(own, date(2022, 6, 30), run_id="shorter")
    assert lake.published_sessions(CORE_FEATURES_DAILY) == before


def test_another_champion_makes_the_signals_stale_and_nothing_before_them(own: Settings) -> None:
    daily_line.train(own, date(2022, 12, 12), run_id="newer-training")
    lake = Lake(own.lake)
    # What the training before it tried are trials of this one too.
    newer = lake.manifest(CORE_MODELS_MODEL, Partition.of_session(date(2022, 12, 12)))
    earlier = lake.ref(CORE_MODELS_MODEL, Partition.of_session(date(2022, 11, 30)))
    assert earlier in newer.parents
    # Trained again it also reads what it tried itself, and so counts and writes the same.
    daily_line.train(own, date(2022, 12, 12), run_id="the-same-training")
    again = lake.manifest(CORE_MODELS_MODEL, Partition.of_session(date(2022, 12, 12)))
    assert again.sha256 == newer.sha256
    assert again.parents == newer.parents
    stale = stale_artifacts(lake, [FIRST])
    assert CORE_SIGNALS_SIGNAL.name in {item.contract for item in stale}
    assert CORE_FEATURES_DAILY.name not in {item.contract for item in stale}
    daily_line.run_session(own, FIRST, run_id="new-champion")
    assert stale_artifacts(Lake(own.lake), [FIRST]) == []


def test_a_cutoff_before_the_first_session_to_train_on_is_refused(own: Settings) -> None:
    models = own.models.model_copy(update={"train_from": date(2022, 12, 14)})
    later = own.model_copy(update={"models": models})
    with pytest.raises(ConfigError, match="MARKETLAKE_MODELS__TRAIN_FROM"):
        daily_line.train(later, date(2022, 12, 12), run_id="too-early")


def test_a_promotion_of_before_the_ensemble_neither_predicts_nor_makes_anything_stale(
    own: Settings,
) -> None:
    ctx, day = step(own, "promote", "old"), date(2022, 12, 14)
    ruling, _, model, _ = predict_signals.champion_for(ctx, FIRST)
    row = ruling | {"as_of": day, "effective_from": date(2022, 12, 15), "passed_gate": True}
    partition = Partition.of_session(day)
    ctx.publish(
        CORE_MODELS_PROMOTION, partition, pl.DataFrame([row]), sessions=[day], parents=[model]
    )
    assert predict_signals.champion_for(ctx, FIRST)[0] == ruling
    assert stale_artifacts(Lake(own.lake), [FIRST]) == []


def test_a_republished_bar_makes_its_own_and_later_sessions_stale_and_a_rerun_mends_them(
    own: Settings,
) -> None:
    lake = Lake(own.lake)
    ctx = step(own, "tamper", "one")
    partition = Partition.of_session(FIRST)
    bars = lake.read(CORE_MARKET_DAILY_BAR, [FIRST], as_of=FIRST)
    position = bars.column_names.index("volume_shares")
    doubled = bars.set_column(
        position, bars.schema.field(position), pc.multiply(bars["volume_shares"], pa.scalar(2.0))
    )
    ctx.publish(CORE_MARKET_DAILY_BAR, partition, doubled, sessions=[FIRST], parents=[])
    stale = {(item.session, item.contract) for item in stale_artifacts(lake, [FIRST, SECOND])}
    assert {(FIRST, CORE_FEATURES_DAILY.name), (SECOND, CORE_FEATURES_DAILY.name)} <= stale
    for session in (FIRST, SECOND):
        daily_line.run_session(own, session, run_id=f"mended-{session}")
    assert stale_artifacts(lake, [FIRST, SECOND]) == []
