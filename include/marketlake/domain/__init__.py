"""Numbers from numbers: pure functions on frames.

No clock, no environment, no store, no vendor. ``prices`` and ``rolling`` are the ground the other
topics stand on; those (features, forecasting, risk, regimes, reporting) never import each other.
"""
