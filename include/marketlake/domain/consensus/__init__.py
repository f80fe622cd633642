"""What several vendors say together: one price, who agreed, and why the others did not.

``normalise`` brings every source to as-traded prices, ``reconcile`` gives the consensus and
classifies each bar apart from it, ``episodes`` joins those into runs. What does not belong here:
fetching, failover, repair, and checks of one series on its own.
"""

from marketlake.domain.consensus.episodes import SETTLE_SESSIONS, episodes
from marketlake.domain.consensus.estimate import LOOKBACK_SESSIONS
from marketlake.domain.consensus.normalise import PRICES, align_stamps, normalise
from marketlake.domain.consensus.reconcile import (
    DEFAULT_THRESHOLD_PCT,
    Consensus,
    provenance,
    reconcile,
)
from marketlake.domain.consensus.rules import REFUTED_IF

__all__ = [
    "DEFAULT_THRESHOLD_PCT",
    "LOOKBACK_SESSIONS",
    "PRICES",
    "REFUTED_IF",
    "SETTLE_SESSIONS",
    "Consensus",
    "align_stamps",
    "episodes",
    "normalise",
    "provenance",
    "reconcile",
]
