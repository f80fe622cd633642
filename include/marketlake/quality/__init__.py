"""Gates: what may be trusted, and why the rest may not.

Belongs here: judging a candidate artifact by its contract's checks. Does not belong: the checks
themselves (contracts) and publishing verdicts (pipelines).
"""
