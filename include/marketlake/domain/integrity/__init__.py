"""Whether bars can be right, judged series by series: findings, and repairs as proposals.

``detect`` runs the rules over a history, ``step`` over one session after the other with the same
findings; ``propose``, ``apply`` and ``revert`` are repair. What does not belong here: which vendor
is right where several disagree (consensus), and writing anything.
"""

from marketlake.domain.integrity.findings import ALARMS, FINDING_SCHEMA, alarms
from marketlake.domain.integrity.gaps import EVERY_SYMBOL, HALT_SCHEMA, LISTING_SCHEMA
from marketlake.domain.integrity.measures import MEMORY, Basis
from marketlake.domain.integrity.monitor import (
    ACTION_SCHEMA,
    Reference,
    State,
    detect,
    remember,
    step,
)
from marketlake.domain.integrity.repair import PROPOSAL_SCHEMA, apply, propose, revert
from marketlake.domain.integrity.rules import Limits

__all__ = [
    "ACTION_SCHEMA",
    "ALARMS",
    "EVERY_SYMBOL",
    "FINDING_SCHEMA",
    "HALT_SCHEMA",
    "LISTING_SCHEMA",
    "MEMORY",
    "PROPOSAL_SCHEMA",
    "Basis",
    "Limits",
    "Reference",
    "State",
    "alarms",
    "apply",
    "detect",
    "propose",
    "remember",
    "revert",
    "step",
]
