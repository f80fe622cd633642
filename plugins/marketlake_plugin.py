"""What Airflow must know by name. Runs in every component and every task: keep it small."""

from airflow.plugins_manager import AirflowPlugin
from marketlake.orchestration.timetable import ExchangeSessionTimetable


class MarketlakePlugin(AirflowPlugin):
    """Marketlake's registrations."""

    name = "marketlake"
    timetables = [ExchangeSessionTimetable]  # noqa: RUF012  # the shape Airflow asks for
