"""Numbers from numbers: pure functions on frames.

No clock, no environment, no store, no vendor. ``prices`` is the ground the other topics stand on;
the other topics (features, forecasting, risk, regimes, reporting) never import each other.
"""
