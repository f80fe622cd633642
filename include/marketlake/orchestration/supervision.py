"""How a worker waits for its task: until the process has ended, not until the next heartbeat.

When a task's process has closed its sockets but is not quite gone, Airflow 3.3.2 waits for one
whole ``min_heartbeat_interval``, and the slot with it. It also tells no callback and no listener of
a process that was killed: the ledger hears of it from here. ``airflow.cfg`` names this coordinator
(``[sdk] coordinators``) for the queue that tasks go to. What does not belong: anything a task does.
"""

from __future__ import annotations

from typing import Any

import attrs
from airflow.sdk.configuration import conf
from airflow.sdk.execution_time.coordinator import BaseCoordinator
from airflow.sdk.execution_time.supervisor import ActivitySubprocess

_EXIT_POLL_S = 0.02


@attrs.define(kw_only=True)
class PromptSubprocess(ActivitySubprocess):  # type: ignore[misc]  # airflow ships no strict types
    """A task's process whose end is seen when it ends, and recorded if it could not do so."""

    def _service_subprocess(self, max_wait_time: float, *args: Any, **kwargs: Any) -> int | None:
        if not self._open_sockets:  # all it had to say is read: only its end is awaited
            max_wait_time = min(max_wait_time, _EXIT_POLL_S)
        code: int | None = super()._service_subprocess(max_wait_time, *args, **kwargs)
        return code

    def update_task_state_if_needed(self) -> None:
        """Tell Airflow how the process ended; first the ledger, which a next try comes after."""
        if self._exit_code != 0:
            from marketlake.orchestration.task_ends import record_process_end

            record_process_end(self.ti, exit_code=self._exit_code, state=self.final_state)
        super().update_task_state_if_needed()


class PromptCoordinator(BaseCoordinator):  # type: ignore[misc]
    """Runs Python tasks as Airflow's own coordinator does, in :class:`PromptSubprocess`."""

    def execute_task(
        self, *, subprocess_logs_to_stdout: bool, **task: Any
    ) -> BaseCoordinator.ExecutionResult:
        """Run one task to its end."""
        process = PromptSubprocess.start(
            subprocess_logs_to_stdout=subprocess_logs_to_stdout and _logs_to_stdout(), **task
        )
        return self.ExecutionResult(process.wait(), process.final_state)


def _logs_to_stdout() -> bool:
    """Whether a setting asks for tasks' logs on stdout too.

    LocalExecutor always asks for it, whatever is set, and the scheduler's log would have them all.
    """
    return any(
        conf.getboolean(section, "task_logs_to_stdout", fallback=False)
        for section in ("logging", "celery")
    )
