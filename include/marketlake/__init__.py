"""Marketlake: an audited market-data and signal platform.

The floors, imports pointing down only (import-linter enforces it)::

    6  dags/  plugins/  cli
    5  orchestration        services
    4  pipelines            readmodels
    3  domain  sources  quality
    2  storage              calendars
    1  contracts            settings
    0  errors  types  clock
"""

__version__ = "0.1.0"
