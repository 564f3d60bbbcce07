"""`learning` and `forecast`, compiled (extra `fast`): one call a decision, every quantity in an array.

The names, the order of the signs and the formulas are theirs. What differs is rounding alone: sums run in
another order. Shapes: M variants, J thresholds, K chains of at most E states, n signs, R residual windows.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import forecast
from .forecast import FREQUENCIES_STEPS, LEVELS, RESIDUALS
from .jit import njit
from .kernels import settle
from .learning import (
    CHAIN_HALF_LIFE_STEPS,
    CHAIN_TEMPERATURE,
    GROWTH,
    LEADER_HALF_LIFE_STEPS,
    PRIOR_STRENGTH,
    RULE_HANDICAP,
    SETTLED,
    SETTLING_STEPS,
    TIE,
)
from .view import DIGITS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LAST_ANSWERS = 2**forecast.PATTERN_BITS
PATTERNS = LAST_ANSWERS + 8 * 11 * 2
"""Of the last answers, then of a run and the run before."""
_RATES = np.array(LEVELS)
_RESIDUAL_RATES = np.array([rate for rate, _ in RESIDUALS])
_SIZES = np.array([size for _, size in RESIDUALS])
_KEEP = np.exp2(-1 / np.array(FREQUENCIES_STEPS))
_CHAIN_KEEP = math.exp2(-1 / CHAIN_HALF_LIFE_STEPS)
_LEADER_KEEP = math.exp2(-1 / LEADER_HALF_LIFE_STEPS)
_WIDENS = forecast.FORGETTING**-forecast.FORGETS_EVERY
_SCALE = 10.0**DIGITS
_SETTLING_STEPS = np.int64(
    SETTLING_STEPS
)  # a plain constant is a type to numba: all below compiled anew


class Chains(NamedTuple):
    """The K chains. What each counts is padded to the E states of the largest, `edges` by infinity."""

    views: Floats  # (K, 3): smoothing, near, whether there is a trend
    edges: Floats  # (K, bins − 1)
    prior: Floats  # (K, E, J + 1), of the falls
    state: Ints  # (K,)
    now: Floats  # (K, 2): the smoothed logarithm, the weight of a step
    moves: Floats  # (K, E, E)
    falls: Floats  # (K, E, J + 1)
    ahead: Floats  # (K, E, M)


class Signs(NamedTuple):
    """What the forecast's own signs remember."""

    thresholds: Floats  # (J,)
    levels: Floats  # (levels, 2): the average, the variance of its surprises
    base: Floats  # (R,), averages
    window: Ints  # (R, 2): how many surprises are kept, and where the oldest is
    order: Floats  # (R, longest window): surprises as they came
    ranked: Floats  # the same, sorted
    past: Ints  # (J, 5): last answers, run, run before, the two patterns found last
    known: Floats  # (J, patterns, 2): frequency of yes, answers
    yes: Floats  # (frequencies, J + 1), the last as if there always was a yes


class Mixing(NamedTuple):
    """The Bayesian regressions on n signs and a constant."""

    x: Floats  # (J, n + 1), as the next two
    weights: Floats
    towards: Floats
    p: Floats  # (J,)
    spread: Floats  # (J, n + 1, n + 1)
    learned: Ints  # (1,)


class Followed(NamedTuple):
    """The paths of some policies."""

    choices: Ints  # (2, paths): active before the last step, chosen in it
    score: Floats  # (paths,)


class State(NamedTuple):
    """Everything that a step reads or writes."""

    terms: Floats  # (4, M, M): `Task.choices`
    chains: Chains
    signs: Signs
    mixing: Mixing
    by_chain: Followed
    followed: Followed  # the committee's path, then the rules'
    alert: Floats  # (2,): mean and variance


@njit(cache=True, nogil=True)
def decide(
    held: Any, budget: float, log_budget: float, active: int, leader: int, fresh: bool
) -> tuple[int, int]:
    """Return the leader's choice and the leader; `held` is a `State`, as in the next two."""
    s = held.content
    terms, chains, signs, mixing = s.terms, s.chains, s.signs, s.mixing
    followed, paths = s.followed.choices, s.by_chain.choices
    if not fresh:
        _credit(terms, budget, s.by_chain, _CHAIN_KEEP)
        _credit(terms, budget, s.followed, _LEADER_KEEP)
        _answer(signs, mixing, log_budget)
    for path in (followed, paths):
        for i in range(path.shape[1]):
            path[0, i] = path[1, i]
    followed[0, leader] = active
    _observe(chains, signs.thresholds, log_budget, fresh)
    _read_signs(signs, mixing.x, log_budget, fresh)
    _read_chains(chains, mixing.x, forecast.OWN_SIGNS)
    reach = _predict(mixing)
    variants, own = terms.shape[1], followed[0, 0]
    payoff = np.empty((variants, variants))
    for m in range(variants):
        for a in range(variants):
            on_time, late = terms[2, m, a], terms[3, m, a]
            payoff[m, a] = late + reach[int(terms[1, m, a])] * (on_time - late)
    _follow_chains(chains, payoff, paths)
    advantage = _advantages(chains, s.by_chain.score, payoff, own)
    followed[1, 0] = _best(advantage, own)
    if own != active:
        advantage = _advantages(chains, s.by_chain.score, payoff, active)
    ours = _best(advantage, active)
    for phi in range(variants):
        followed[1, 1 + phi] = phi
    followed[1, 1 + variants] = _alert(terms, s.alert, log_budget, fresh, followed[0, 1 + variants])
    leader = _lead(s.followed, advantage, ours, leader)
    return followed[1, leader] if leader else ours, leader


@njit(cache=True, nogil=True)
def prepare(held: Any) -> None:
    """Reckon where the coming answer moves the mixture's weights, which is surer then whatever it is."""
    mixing = held.content.mixing
    rows, width = mixing.x.shape
    widest = forecast.PRIOR_DEVIATION**2 * (width - 1)
    forgets = mixing.learned[0] > 0 and mixing.learned[0] % forecast.FORGETS_EVERY == 0
    sums = np.empty(width)
    for j in range(rows):
        spread, x = mixing.spread[j], mixing.x[j]
        trace, unsure = 0.0, 0.0
        for i in range(width):
            sums[i] = 0.0
            trace += spread[i, i]
        if forgets and trace < widest:
            for i in range(width):
                for k in range(width):
                    spread[i, k] *= _WIDENS
        for k in range(width):
            for i in range(width):
                sums[i] += spread[k, i] * x[k]
        for i in range(width):
            unsure += sums[i] * x[i]
        h = max(mixing.p[j] * (1 - mixing.p[j]), forecast.LEAST_VARIANCE)
        whole = 1 + h * max(unsure, 0.0)
        for i in range(width):
            mixing.towards[j, i] = sums[i] / whole
            share = h * mixing.towards[j, i]
            for k in range(width):
                spread[i, k] -= share * sums[k]


@njit(cache=True, nogil=True)
def refresh(
    held: Any,
    k: int,
    prior_moves: Floats,
    d: Floats,
    first: Ints,
    quality: Floats,
    penalty: Floats,
    miss_cost: float,
    gamma: float,
) -> None:
    """Solve chain k anew, begun from its last d (M − 1, E): see `Task.refresh`."""
    chains = held.content.chains
    states, variants, rows = len(prior_moves), len(quality), chains.falls.shape[2]
    moves, falls, weight = chains.moves[k], chains.falls[k], chains.now[k, 1]
    transition = np.empty((states, states))
    payoff = np.empty((states, variants, variants))
    reach = np.empty(rows)
    for e in range(states):
        mass = PRIOR_STRENGTH
        for f in range(states):
            moves[e, f] /= weight
            mass += moves[e, f]
        for f in range(states):
            transition[e, f] = (moves[e, f] + PRIOR_STRENGTH * prior_moves[e, f]) / mass
        total = 0.0
        for j in range(rows - 1, -1, -1):
            falls[e, j] /= weight
            total += (falls[e, j] + chains.prior[k, e, j]) / mass
            reach[j] = min(total, 1.0)
        for m in range(variants):
            for a in range(variants):
                on_time = reach[first[m, a]]
                paid = quality[a] * on_time - miss_cost * (1 - on_time)
                payoff[e, m, a] = paid - penalty[m, a]
    chains.now[k, 1] = 1.0
    ahead = settle(payoff, transition, gamma, d, SETTLED, _SETTLING_STEPS)
    for e in range(states):
        for a in range(1, variants):
            chains.ahead[k, e, a] = gamma * ahead[e, a - 1]


@njit(cache=True, nogil=True)
def _credit(terms: Floats, budget: float, paths: Followed, keep: float) -> None:
    """Add to every path's score what its last choice got."""
    for i in range(len(paths.score)):
        m, a = paths.choices[0, i], paths.choices[1, i]
        gain = terms[2, m, a] if terms[0, m, a] <= budget else terms[3, m, a]
        paths.score[i] = keep * paths.score[i] + gain


@njit(cache=True, nogil=True)
def _answer(signs: Signs, mixing: Mixing, log_budget: float) -> None:
    """Take the answers to the last questions: which thresholds this budget reaches."""
    rows, width = mixing.x.shape
    for f in range(len(_KEEP)):
        signs.yes[f, rows] = signs.yes[f, rows] * _KEEP[f] + 1
    for j in range(rows):
        answer = 1.0 if log_budget >= signs.thresholds[j] else 0.0
        for i in range(3, 5):
            entry = signs.known[j, signs.past[j, i]]
            entry[1] = min(entry[1] + 1, forecast.PATTERN_LIMIT)
            entry[0] += (answer - entry[0]) / (entry[1] + 1.5)
        for f in range(len(_KEEP)):
            signs.yes[f, j] = signs.yes[f, j] * _KEEP[f] + answer
        error = answer - mixing.p[j]
        for i in range(width):
            mixing.weights[j, i] += mixing.towards[j, i] * error
    mixing.learned[0] += 1


@njit(cache=True, nogil=True)
def _observe(chains: Chains, thresholds: Floats, log_budget: float, fresh: bool) -> None:
    """Move every chain to its next state; unless a series begins, count the step that led there."""
    fall = _count(thresholds, len(thresholds), log_budget, True)
    for k in range(len(chains.state)):
        smoothing, near, trend = chains.views[k]
        now, edges, was = chains.now[k], chains.edges[k], chains.state[k]
        before = log_budget if fresh else now[0]
        now[0] = before + smoothing * (log_budget - before)
        state = _count(edges, len(edges), _rounded(now[0]), True)
        if trend:
            away = _rounded(log_budget - before)
            state = 3 * state + (2 if away > near else 0 if away < -near else 1)
        if not fresh:
            now[1] *= GROWTH
            chains.moves[k, was, state] += now[1]
            chains.falls[k, was, fall] += now[1]
        chains.state[k] = state


@njit(cache=True, nogil=True)
def _read_signs(signs: Signs, x: Floats, log_budget: float, fresh: bool) -> None:
    """Move the forecast's own signs on; `x` becomes the logits of levels and the others' shares."""
    thresholds, levels, rows = signs.thresholds, signs.levels, len(signs.thresholds)
    for i in range(len(levels)):
        if fresh:
            levels[i, 0] = log_budget
        surprise = log_budget - levels[i, 0]
        levels[i, 0] += _RATES[i, 0] * surprise
        levels[i, 1] += _RATES[i, 1] * (surprise * surprise - levels[i, 1])
        slope = forecast.LOGISTIC / (math.sqrt(levels[i, 1]) + forecast.LEAST_DEVIATION)
        for j in range(rows):
            x[j, i] = (levels[i, 0] - thresholds[j]) * slope
    at = len(levels)
    for f in range(len(_KEEP)):
        for j in range(rows):
            x[j, at + f] = (signs.yes[f, j] + 0.5) / (signs.yes[f, rows] + 1)
    at += len(_KEEP)
    for j in range(rows):
        _see(signs.past[j], log_budget >= thresholds[j])
        for i in range(2):
            x[j, at + i] = signs.known[j, signs.past[j, 3 + i], 0]
    at += 2
    for r in range(len(signs.base)):
        _surprise(signs, r, log_budget, fresh)
        kept = signs.window[r, 0]
        for j in range(rows):
            short = thresholds[j] - signs.base[r]
            reached = kept - _count(signs.ranked[r], kept, short, False)
            x[j, at + r] = (reached + (1.8 if short <= 0 else 0.2)) / (kept + 2)


@njit(cache=True, nogil=True)
def _read_chains(chains: Chains, x: Floats, first: int) -> None:
    """Write what each chain says of each threshold to the signs from `first` on."""
    for k in range(len(chains.state)):
        falls, prior = chains.falls[k, chains.state[k]], chains.prior[k, chains.state[k]]
        weight, total = chains.now[k, 1], 0.0
        for j in range(len(x), -1, -1):
            total += falls[j] + weight * prior[j]
            if j:
                x[j - 1, first + k] = total
        for j in range(len(x)):
            x[j, first + k] /= total


@njit(cache=True, nogil=True)
def _predict(mixing: Mixing) -> Floats:
    """Return Pr[B′ ≥ θ_j], (J,), made to fall with the threshold; shares become logits."""
    rows, width = mixing.x.shape
    reach, least = np.empty(rows), 1.0
    for j in range(rows):
        x, weights = mixing.x[j], mixing.weights[j]
        z = weights[width - 1]
        for i in range(width - 1):
            logit = x[i]
            if i >= len(_RATES):
                share = min(max(logit, forecast.SHARE), 1 - forecast.SHARE)
                logit = math.log(share / (1 - share))
            x[i] = min(max(logit, -forecast.LOGIT), forecast.LOGIT)
            z += weights[i] * x[i]
        mixing.p[j] = 1 / (1 + math.exp(-min(max(z, -9.0), 9.0)))
        least = min(least, mixing.p[j])
        reach[j] = least
    return reach


@njit(cache=True, nogil=True)
def _surprise(signs: Signs, r: int, log_budget: float, fresh: bool) -> None:
    """Move the average of residual window r and take its surprise in, the oldest out."""
    if fresh:
        signs.base[r] = log_budget
        return
    surprise = log_budget - signs.base[r]
    signs.base[r] += _RESIDUAL_RATES[r] * surprise
    ranked, order = signs.ranked[r], signs.order[r]
    kept, oldest = signs.window[r]
    at = kept
    if kept == _SIZES[r]:
        at, kept = _count(ranked, kept, order[oldest], False), kept - 1
    # The gap moves from where one left to where the other belongs.
    while at < kept and ranked[at + 1] < surprise:
        ranked[at] = ranked[at + 1]
        at += 1
    while at > 0 and ranked[at - 1] >= surprise:
        ranked[at] = ranked[at - 1]
        at -= 1
    ranked[at] = surprise
    if kept + 1 == _SIZES[r] == signs.window[r, 0]:
        order[oldest] = surprise
        signs.window[r, 1] = (oldest + 1) % _SIZES[r]
    else:
        order[kept] = surprise
    signs.window[r, 0] = kept + 1


@njit(cache=True, nogil=True)
def _see(past: Ints, yes: bool) -> None:
    """Add an answer; find the patterns that it completes."""
    if yes == (past[0] & 1):
        past[1] += 1
    else:
        past[2], past[1] = past[1], 1
    past[0] = (past[0] << 1 | yes) & (LAST_ANSWERS - 1)
    run = min(_bit_length(past[1]), 10)
    before = min(_bit_length(past[2] + 1), 6)
    past[3] = past[0]
    past[4] = (run * 8 + before) * 2 + yes + LAST_ANSWERS


@njit(cache=True, nogil=True)
def _follow_chains(chains: Chains, payoff: Floats, paths: Ints) -> None:
    """Let every chain's own path choose."""
    worth = np.empty(len(payoff))
    for k in range(len(chains.state)):
        path = paths[0, k]
        for a in range(len(worth)):
            worth[a] = payoff[path, a] + chains.ahead[k, chains.state[k], a]
        paths[1, k] = _best(worth, path)


@njit(cache=True, nogil=True)
def _advantages(chains: Chains, score: Floats, payoff: Floats, active: int) -> Floats:
    """Return the chains' weighted advantages (M,) with `active` active."""
    variants = len(payoff)
    sums, worth = np.zeros(variants), np.empty(variants)
    top, whole = score[0], 0.0
    for k in range(len(score)):
        top = max(top, score[k])
    for k in range(len(score)):
        weight, most = math.exp((score[k] - top) / CHAIN_TEMPERATURE), -np.inf
        whole += weight
        for a in range(variants):
            worth[a] = payoff[active, a] + chains.ahead[k, chains.state[k], a]
            most = max(most, worth[a])
        for a in range(variants):
            sums[a] += weight * (worth[a] - most)
    for a in range(variants):
        sums[a] /= whole
    return sums


@njit(cache=True, nogil=True)
def _alert(terms: Floats, filter_: Floats, log_budget: float, fresh: bool, active: int) -> int:
    """Return what `rules.Alert` chooses; `filter_` is its mean and variance."""
    if fresh:
        filter_[0] = log_budget
    surprise = log_budget - filter_[0]
    filter_[0] += 0.3 * surprise
    filter_[1] += 0.1 * (surprise * surprise - filter_[1])
    spread = math.sqrt(2 * filter_[1]) + 1e-9
    best, most = 0, -np.inf
    for phi in range(terms.shape[1]):
        on_time = 0.5 * math.erfc((math.log(terms[0, active, phi]) - filter_[0]) / spread)
        worth = terms[2, phi, phi] * on_time + terms[3, phi, phi] * (1 - on_time)
        if worth > most + TIE:
            best, most = phi, worth
    return best


@njit(cache=True, nogil=True)
def _lead(followed: Followed, advantage: Floats, ours: int, leader: int) -> int:
    """Return who leads now; the leadership changes where that pays."""
    score, chosen, best, most = followed.score, followed.choices[1], leader, TIE
    mine = score[leader] - (RULE_HANDICAP if leader else 0.0)
    own = advantage[chosen[leader] if leader else ours]
    for newcomer in range(len(score)):
        theirs = score[newcomer] - (RULE_HANDICAP if newcomer else 0.0)
        loss = own - advantage[chosen[newcomer] if newcomer else ours]
        ahead = theirs - mine - max(loss, 0.0)
        if ahead > most:
            best, most = newcomer, ahead
    return best


@njit(cache=True, nogil=True)
def _best(worth: Floats, active: int) -> int:
    """Return the best action; the active one where it is as good."""
    best = 0
    for a in range(1, len(worth)):
        if worth[a] > worth[best]:
            best = a
    return active if worth[active] >= worth[best] - TIE else best


@njit(cache=True, nogil=True)
def _count(ordered: Floats, kept: int, value: float, equal: bool) -> int:
    """Return how many of the first `kept` are below `value`; with `equal`, at most that."""
    low, high = 0, kept
    while low < high:
        middle = (low + high) // 2
        if ordered[middle] < value or (equal and ordered[middle] == value):
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def _rounded(logarithm: float) -> float:
    return float(np.rint(logarithm * _SCALE) / _SCALE)


@njit(cache=True, nogil=True)
def _bit_length(number: int) -> int:
    bits = 0
    while number:
        number >>= 1
        bits += 1
    return bits
