"""The consensus price of each cell: a vote of the sources, then a weighted median of the winners.

Sources whose prices lie within the field's threshold of each other support each other; the best
supported price wins, and the consensus is the weighted median of those that agree with it. A plain
median needs most sources to be right: two of three that are wrong in different ways defeat it. The
vote needs only that the wrong do not agree, and hard evidence against a bar (it repeats an earlier
one, contradicts itself) or its distance from where the price was decide where nobody agrees.

Everything about session t comes from t and the ``LOOKBACK_SESSIONS`` before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marketlake.domain.consensus.panel import Bools, Floats, Panel, lower_median

ERROR_SESSIONS = 60
"""Sessions of past error behind a weight."""

_ERROR_CAP = 0.01
"""A wild price says no more about a source's usual error than one that is 1 % off."""
_ERROR_SCALE = 0.002
"""Past mean error at which a source has lost half of what error can cost it."""
_LEAST_WEIGHT = 0.55
"""More than a half: two sources that agree outvote one, whatever their past errors."""
_ANCHOR_SESSIONS = 5
_USUAL_MOVE = 0.1
_REPEATS_BACK = 10
_SAME_VOLUME = 0.01
_FAINT, _FAINT_REACH = 0.25, 0.05
LOOKBACK_SESSIONS = ERROR_SESSIONS + _REPEATS_BACK
"""History a session needs: its rules look at consensus bars that had weights of their own."""
SAME = 2e-4
"""Relative difference below which two vendors mean one print (rounding of a cent or less)."""
_HARD, _CONTRADICTS, _SOFT, _FAINTLY = 0.05, 0.5, 0.7, 0.9
"""What is left of a bar's vote: it repeats another with its volume, contradicts itself, repeats
three prices or is part of another bar, has a volume of its own."""
_NEVER_A_MOVE = np.log(20.0)


@dataclass(frozen=True)
class Estimate:
    """Consensus and how it came about.

    ``prices`` [n_sessions, n_symbols, 4], NaN where nobody answered; ``weights`` and ``votes``
    [n_sessions, n_symbols, n_sources]: learned, and after the evidence of the session's own bars;
    ``agreed`` [n_sessions, n_symbols, n_sources, 4]: within the field's threshold of the consensus.
    """

    prices: Floats
    weights: Floats
    votes: Floats
    agreed: Bools


def estimate(panel: Panel, split_ratios: Floats, thresholds: Floats) -> Estimate:
    """Return the consensus of every session and symbol.

    Parameters
    ----------
    panel
        As-traded bars.
    split_ratios
        New shares per old on each ex-date, 1.0 elsewhere, [n_sessions, n_symbols].
    thresholds
        Relative, one for each price field.
    """
    X = panel.prices
    weights = learned_weights(X[..., 3])
    logs = np.log(X)
    spread = np.nan_to_num(_range(logs), nan=0.0)
    contested = (spread > thresholds).any(axis=-1)
    votes = weights.copy()
    rows = np.nonzero(contested)
    votes[rows] *= _evidence(panel, rows, split_ratios)
    prices = np.empty((*X.shape[:2], 4))
    for field in range(4):
        chosen = ~np.isnan(X[..., field])
        chosen[rows] &= _winners(logs[rows[0], rows[1], :, field], votes[rows], thresholds[field])
        prices[..., field] = _weighted_median(X[..., field], np.where(chosen, votes, 0.0))
    # Fields come from different sources where one is dropped for one field only.
    prices[..., 1] = np.fmax(prices[..., 1], np.fmax(prices[..., 0], prices[..., 3]))
    prices[..., 2] = np.fmin(prices[..., 2], np.fmin(prices[..., 0], prices[..., 3]))
    agreed = np.abs(X / prices[:, :, None, :] - 1.0) <= thresholds
    return Estimate(prices=prices, weights=weights, votes=votes, agreed=agreed)


def learned_weights(closes: Floats) -> Floats:
    """Return a weight in [0.55, 1] for every cell from the errors of the sessions before it.

    The error of a source is its distance from the nearer half of its peers, so that a wrong peer
    does not blame the right ones. Half of the weight's loss comes from the source's mean error over
    all symbols, half from its error on the symbol: a vendor that misses an action is wrong on one
    symbol for months and right on the others.
    """
    errors = _peer_errors(np.log(closes))
    own = _mean_before(errors)
    overall = _mean_before(np.nansum(errors, axis=1), np.sum(~np.isnan(errors), axis=1))
    past = 0.5 * own + 0.5 * overall[:, None, :]
    trust = _ERROR_SCALE / (_ERROR_SCALE + past)
    # Rounded, so that the order in which sums were taken never decides a vote.
    return np.round(_LEAST_WEIGHT + (1.0 - _LEAST_WEIGHT) * trust, 6)


def _peer_errors(logs: Floats) -> Floats:
    n = logs.shape[-1]
    errors = np.full(logs.shape, np.nan)
    if n > 1:
        for one in range(n):
            away = np.abs(np.delete(logs, one, axis=-1) - logs[..., one, None])
            errors[..., one] = np.minimum(lower_median(away), _ERROR_CAP)
    return errors


def _mean_before(values: Floats, counts: Floats | None = None) -> Floats:
    """Mean over the ERROR_SESSIONS before each; 0.0 where there is none."""
    there = np.asarray(~np.isnan(values) if counts is None else counts, dtype=np.float64)
    total = np.nan_to_num(values, nan=0.0)
    sums = []
    for item in (total, there):
        running = np.concatenate([np.zeros((1, *item.shape[1:])), np.cumsum(item, axis=0)])
        first = np.maximum(np.arange(len(item)) - ERROR_SESSIONS, 0)
        sums.append(running[:-1] - running[first])
    return np.asarray(np.maximum(sums[0], 0.0) / np.maximum(sums[1], 1.0))


def _range(logs: Floats) -> Floats:
    """Return the distance between the highest and lowest source, [n_sessions, n_symbols, 4]."""
    highest, lowest = logs[:, :, 0].copy(), logs[:, :, 0].copy()
    for source in range(1, logs.shape[2]):
        np.fmax(highest, logs[:, :, source], out=highest)
        np.fmin(lowest, logs[:, :, source], out=lowest)
    return np.asarray(highest - lowest)


def _evidence(panel: Panel, rows: tuple[np.ndarray, ...], split_ratios: Floats) -> Floats:
    """Return what is left of each source's vote in contested rows, [n_rows, n_sources]."""
    t, s = rows
    X = panel.prices
    bars = X[t, s]
    left = np.ones(bars.shape[:2])
    middle, own = {}, {}
    for back in range(1, _REPEATS_BACK + 1):
        own[back] = np.where((t >= back)[:, None, None], X[np.maximum(t - back, 0), s], np.nan)
        middle[back] = lower_median(own[back].swapaxes(1, 2))
        left[(np.abs(bars / middle[back][:, None] - 1.0) < SAME).sum(axis=-1) >= 3] = _SOFT
    volumes, hard = panel.volumes[t, s], np.zeros(left.shape, dtype=np.bool_)
    for back in own:
        # A pinned stock repeats its prices, never its volume too; an untraded one repeats both.
        traded = np.where((t >= back)[:, None], panel.volumes[np.maximum(t - back, 0), s], np.nan)
        other = (volumes == 0) | (np.abs(volumes / traded - 1.0) > SAME)
        hard |= (np.abs(bars / own[back] - 1.0) < 1e-9).all(axis=-1) & ~other
    left[hard] = _HARD
    left[contradicts_itself(bars)] *= _CONTRADICTS
    left[_part_of_another(bars, volumes)] *= _SOFT
    left[_volume_alone(volumes)] *= _FAINTLY
    # Where the price was, for everybody or for the source: the median of some closes before, on
    # today's share count.
    ratio, closes = np.ones(len(t)), []
    for back in range(1, _ANCHOR_SESSIONS + 1):
        ratio = ratio * np.where(t >= back - 1, split_ratios[np.maximum(t - back + 1, 0), s], 1.0)
        both = np.concatenate([own[back][..., 3], middle[back][:, 3:]], axis=1)
        closes.append(both / ratio[:, None])
    anchors = lower_median(np.stack(closes, axis=-1))
    away = np.fmin(
        *(np.abs(np.log(bars[..., 3] / one)) for one in (anchors[:, :-1], anchors[:, -1:]))
    )
    # What all share is a move of the market, a usual move says nothing, and a doubling never
    # outweighs two that agree on it.
    left[away > _NEVER_A_MOVE] *= _HARD
    away = np.nan_to_num(away, nan=0.0)
    far = np.maximum(away - away.min(axis=-1, keepdims=True) - _USUAL_MOVE, 0.0)
    return np.asarray(left * (1.0 - 0.45 * far / (0.1 + far)))


def contradicts_itself(bars: Floats) -> Bools:
    """Whether low, open, close, high are out of order by more than rounding, [..., 4] -> [...]."""
    open_, high, low, close = np.moveaxis(bars, -1, 0)
    top, bottom = np.fmax(open_, close), np.fmin(open_, close)
    return np.asarray((high < top * (1 - SAME)) | (low > bottom * (1 + SAME)) | (low > high))


def _part_of_another(bars: Floats, volumes: Floats) -> Bools:
    """Whether a bar lies within another's range at under half its volume, [n_rows, n_sources]."""
    high, low = bars[..., 1], bars[..., 2]
    inside = (high[:, :, None] <= high[:, None, :] * (1 + SAME)) & (
        low[:, :, None] >= low[:, None, :] * (1 - SAME)
    )
    return np.asarray((inside & (volumes[:, :, None] < 0.5 * volumes[:, None, :])).any(axis=-1))


def _volume_alone(volumes: Floats) -> Bools:
    """Whether a volume is nobody else's while two others agree on theirs, [n_rows, n_sources]."""
    same = np.abs(volumes[:, :, None] / volumes[:, None, :] - 1.0) < _SAME_VOLUME
    company = same.sum(axis=-1) >= 2
    return np.asarray(~company & company.any(axis=-1, keepdims=True))


def _winners(logs: Floats, votes: Floats, threshold: float) -> Bools:
    """Whether each source agrees with the best supported one, [n_rows, n_sources]."""
    there = ~np.isnan(logs)
    away = np.abs(logs[:, :, None] - logs[:, None, :])
    near = away <= threshold
    # Beyond the threshold a little support is left, so that of three apart the middle one wins.
    support = np.where(near, 1.0, _FAINT / (1.0 + away / _FAINT_REACH))
    given = np.where(there, votes, 0.0)
    support = (np.nan_to_num(support, nan=0.0) * given[:, None, :]).sum(axis=-1) + 1e-3 * given
    best = np.argmax(np.where(there, support, -1.0), axis=-1)
    return np.asarray(np.take_along_axis(near, best[:, None, None], axis=1)[:, 0])


def _weighted_median(values: Floats, weights: Floats) -> Floats:
    """Return the weighted median along the last axis: always a price some source gave.

    Of two the heavier; NaN where no weight is.
    """
    order = np.argsort(np.where(weights > 0, values, np.inf), axis=-1, kind="stable")
    ordered = np.take_along_axis(weights, order, axis=-1)
    share = np.cumsum(ordered, axis=-1)
    at = np.argmax(share >= 0.5 * share[..., -1:], axis=-1)
    found = np.take_along_axis(np.take_along_axis(values, order, -1), at[..., None], -1)[..., 0]
    return np.asarray(np.where(share[..., -1] > 0, found, np.nan))
