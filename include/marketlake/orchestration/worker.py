"""A Celery worker's process: the slow imports first, then Airflow's own worker.

Its pool is forked from it and each task from the pool, so both inherit them. Without gossip and
mingle: workers here do not need to know of one another. What does not belong: anything a task does.
"""

from __future__ import annotations

from marketlake.orchestration.scheduler import become_airflow, import_what_tasks_inherit


def main() -> None:
    """Import what tasks inherit, become ``airflow celery worker``."""
    import_what_tasks_inherit()
    become_airflow("celery", "worker", "--without-gossip", "--without-mingle")


if __name__ == "__main__":
    main()
