"""Features: numbers a model may see, each a function of what was known at its session's close.

``compute_features`` makes the close-only features of ``contracts.features``
(``core_features__daily``), ``compute_factors`` the factors of ``contracts.factors``
(``core_factors__daily``). Importing them is cheap; Numba is loaded when factors are first computed,
inside a task.
"""

from marketlake.domain.features.closes import compute_features
from marketlake.domain.features.engine import sessions_needed
from marketlake.domain.features.factors import compute_factors

__all__ = ["compute_factors", "compute_features", "sessions_needed"]
