"""The specification's named files, each with its section and its contract.

``{yyyymmdd}`` and ``{yyyymm}`` are the exchange session a file is about. Records (audit logs and
snapshots) are named by their exchange-local recording time instead; those of one second by a number
behind it. They have no contract in the catalog: whether there is one is seen in the lake by its
name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

_DIGITS = {"{yyyymmdd}": r"\d{8}", "{yyyymm}": r"\d{6}", "{hhmmss}": r"\d{6}", "{hh}": r"\d{2}"}


@dataclass(frozen=True)
class SpecFile:
    """One named file: its path pattern in the lake bucket, section, writer and contract."""

    pattern: str
    section: str
    produced_by: str
    contract: str

    def matches(self, key: str) -> bool:
        """Return whether a key of the lake bucket is one of these files."""
        return self._shape.fullmatch(key) is not None

    def place_of(self, key: str) -> tuple[str, int]:
        """Return what these files sort by: their time, then their number within it."""
        match = self._shape.fullmatch(key)
        if match is None:
            raise ValueError(f"{key} is no {self.pattern}")
        return match["time"], int(match["number"] or 1)

    @cached_property
    def _shape(self) -> re.Pattern[str]:
        stem, _, ending = self.pattern.rpartition(".")
        shape = re.escape(stem)
        for name, digits in _DIGITS.items():
            shape = shape.replace(re.escape(name), digits)
        return re.compile(rf"(?P<time>{shape})(?:_(?P<number>\d+))?\.{ending}")


SPEC_FILES: tuple[SpecFile, ...] = (
    SpecFile(
        "data_validation/daily_integrity_report_{yyyymmdd}.json",
        "1.2",
        "validate_market_data",
        "out_data_validation__daily_integrity_report",
    ),
    SpecFile(
        "data_validation/anomaly_log_{yyyymmdd}.csv",
        "1.2",
        "validate_market_data",
        "out_data_validation__anomaly_log",
    ),
    SpecFile(
        "data_validation/source_comparison_{yyyymmdd}.json",
        "1.1",
        "validate_market_data",
        "out_data_validation__source_comparison",
    ),
    SpecFile(
        "ml_models/trained_models/lstm_model_{yyyymmdd}.keras",
        "2.1",
        "train_models",
        "out_ml_models__lstm_model",
    ),
    SpecFile(
        "ml_models/predictions/daily_predictions_{yyyymmdd}.json",
        "2.1",
        "predict_signals",
        "out_ml_models__daily_predictions",
    ),
    SpecFile(
        "ml_models/performance/model_accuracy_{yyyymmdd}.csv",
        "2.1",
        "predict_signals",
        "out_ml_models__model_accuracy",
    ),
    SpecFile(
        "sentiment_data/twitter_sentiment_{yyyymmdd}.json",
        "2.2",
        "score_sentiment",
        "out_sentiment_data__twitter_sentiment",
    ),
    SpecFile(
        "sentiment_data/news_sentiment_{yyyymmdd}.json",
        "2.2",
        "score_sentiment",
        "out_sentiment_data__news_sentiment",
    ),
    SpecFile(
        "sentiment_data/combined_sentiment_score_{yyyymmdd}.csv",
        "2.2",
        "score_sentiment",
        "out_sentiment_data__combined_sentiment_score",
    ),
    SpecFile(
        "audit_logs/api_calls/{yyyymmdd}_{hh}.json",
        "3.1",
        "export_audit",
        "out_audit_logs__api_calls",
    ),
    SpecFile(
        "audit_logs/calculations/{yyyymmdd}_{hh}.json",
        "3.1",
        "export_audit",
        "out_audit_logs__calculations",
    ),
    SpecFile(
        "audit_logs/decisions/trade_decision_{yyyymmdd}_{hhmmss}.json",
        "3.1",
        "export_audit",
        "out_audit_logs__trade_decision",
    ),
    SpecFile(
        "audit_logs/master_log_{yyyymm}.db",
        "3.1",
        "export_audit",
        "out_audit_logs__master_log",
    ),
    SpecFile(
        "snapshots/data_fetch/snapshot_{yyyymmdd}_{hhmmss}.json",
        "3.2",
        "every task",
        "out_snapshots__snapshot_data_fetch",
    ),
    SpecFile(
        "snapshots/analysis/snapshot_{yyyymmdd}_{hhmmss}.json",
        "3.2",
        "every task",
        "out_snapshots__snapshot_analysis",
    ),
    SpecFile(
        "snapshots/signals/snapshot_{yyyymmdd}_{hhmmss}.json",
        "3.2",
        "every task",
        "out_snapshots__snapshot_signals",
    ),
    SpecFile(
        "risk_analysis/market_regime_{yyyymmdd}.json",
        "4.1",
        "assess_risk",
        "out_risk_analysis__market_regime",
    ),
    SpecFile(
        "risk_analysis/portfolio_risk_{yyyymmdd}.csv",
        "4.1",
        "assess_risk",
        "out_risk_analysis__portfolio_risk",
    ),
    SpecFile(
        "risk_analysis/hedge_recommendations_{yyyymmdd}.json",
        "4.1",
        "assess_risk",
        "out_risk_analysis__hedge_recommendations",
    ),
    SpecFile(
        "monte_carlo/simulation_results_{yyyymmdd}.csv",
        "4.2",
        "simulate_scenarios",
        "out_monte_carlo__simulation_results",
    ),
    SpecFile(
        "monte_carlo/risk_metrics_{yyyymmdd}.json",
        "4.2",
        "simulate_scenarios",
        "out_monte_carlo__risk_metrics",
    ),
    SpecFile(
        "monte_carlo/optimal_sizing_{yyyymmdd}.json",
        "4.2",
        "simulate_scenarios",
        "out_monte_carlo__optimal_sizing",
    ),
    SpecFile(
        "real_time/price_ticks/{yyyymmdd}/ticks_{hh}.csv",
        "5.1",
        "close_intraday",
        "out_real_time__price_ticks",
    ),
    SpecFile(
        "real_time/signals/intraday_signals_{yyyymmdd}.json",
        "5.1",
        "close_intraday",
        "out_real_time__intraday_signals",
    ),
    SpecFile(
        "real_time/alerts/alert_log_{yyyymmdd}.json",
        "5.1",
        "close_intraday",
        "out_real_time__alert_log",
    ),
    SpecFile(
        "dashboard_data/performance_metrics_{yyyymmdd}.json",
        "5.2",
        "publish_dashboard",
        "out_dashboard_data__performance_metrics",
    ),
    SpecFile(
        "dashboard_data/position_snapshot_{yyyymmdd}_{hh}.json",
        "5.2",
        "publish_dashboard",
        "out_dashboard_data__position_snapshot",
    ),
    SpecFile(
        "dashboard_data/pnl_history_{yyyymm}.csv",
        "5.2",
        "publish_dashboard",
        "out_dashboard_data__pnl_history",
    ),
    SpecFile(
        "automation/pipeline_log_{yyyymmdd}.json",
        "6.1",
        "watch_platform",
        "out_automation__pipeline_log",
    ),
    SpecFile(
        "automation/scheduled_tasks_{yyyymmdd}.csv",
        "6.1",
        "watch_platform",
        "out_automation__scheduled_tasks",
    ),
    SpecFile(
        "automation/notification_log_{yyyymmdd}.json",
        "6.1",
        "watch_platform",
        "out_automation__notification_log",
    ),
    SpecFile(
        "monitoring/health_checks_{yyyymmdd}.json",
        "6.2",
        "watch_platform",
        "out_monitoring__health_checks",
    ),
    SpecFile(
        "monitoring/error_log_{yyyymmdd}.csv",
        "6.2",
        "watch_platform",
        "out_monitoring__error_log",
    ),
    SpecFile(
        "monitoring/performance_metrics_{yyyymmdd}.json",
        "6.2",
        "watch_platform",
        "out_monitoring__performance_metrics",
    ),
    SpecFile(
        "microstructure/order_book_{yyyymmdd}_{hh}.csv",
        "7.1",
        "analyze_microstructure",
        "out_microstructure__order_book",
    ),
    SpecFile(
        "microstructure/volume_profile_{yyyymmdd}.json",
        "7.1",
        "analyze_microstructure",
        "out_microstructure__volume_profile",
    ),
    SpecFile(
        "microstructure/market_depth_{yyyymmdd}.csv",
        "7.1",
        "analyze_microstructure",
        "out_microstructure__market_depth",
    ),
    SpecFile(
        "intermarket/correlation_matrix_{yyyymmdd}.csv",
        "7.2",
        "analyze_intermarket",
        "out_intermarket__correlation_matrix",
    ),
    SpecFile(
        "intermarket/sector_rotation_{yyyymmdd}.json",
        "7.2",
        "analyze_intermarket",
        "out_intermarket__sector_rotation",
    ),
    SpecFile(
        "intermarket/global_factors_{yyyymmdd}.json",
        "7.2",
        "analyze_intermarket",
        "out_intermarket__global_factors",
    ),
    SpecFile(
        "compliance/trade_documentation_{yyyymmdd}.pdf",
        "8.2",
        "report_compliance",
        "out_compliance__trade_documentation",
    ),
    SpecFile(
        "compliance/risk_limits_log_{yyyymmdd}.csv",
        "8.2",
        "report_compliance",
        "out_compliance__risk_limits_log",
    ),
    SpecFile(
        "compliance/decision_log_{yyyymmdd}.json",
        "8.2",
        "report_compliance",
        "out_compliance__decision_log",
    ),
    SpecFile(
        "backtests/walk_forward_{yyyymmdd}.json",
        "9.1",
        "run_backtests",
        "out_backtests__walk_forward",
    ),
    SpecFile(
        "backtests/regime_tests_{yyyymmdd}.csv",
        "9.1",
        "run_backtests",
        "out_backtests__regime_tests",
    ),
    SpecFile(
        "backtests/transaction_costs_{yyyymmdd}.json",
        "9.1",
        "run_backtests",
        "out_backtests__transaction_costs",
    ),
    SpecFile(
        "paper_trading/trades_{yyyymmdd}.json",
        "9.2",
        "run_paper_book",
        "out_paper_trading__trades",
    ),
    SpecFile(
        "paper_trading/performance_{yyyymmdd}.csv",
        "9.2",
        "run_paper_book",
        "out_paper_trading__performance",
    ),
    SpecFile(
        "paper_trading/comparison_{yyyymmdd}.json",
        "9.2",
        "run_paper_book",
        "out_paper_trading__comparison",
    ),
)
