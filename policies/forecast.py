"""How likely the next budget is to reach each threshold: many signs, mixed as they prove their worth.

Being on time depends on nothing but which thresholds θ_j the next budget B′ reaches. Each j is a question
of yes or no, asked every step and answered by the budget that comes, whatever was chosen.

**Signs.** Each gives a probability of yes for every threshold:

* levels: the logarithm of the budget averaged exponentially, the next one taken as logistic around it
  with the deviation of its own recent surprises (the filter of ALERT, Wan et al. 2020, at several speeds);
* residuals: the share of the last 50 or 300 surprises that would carry the average across the threshold;
* patterns: how often yes followed the last eight answers, and how often it followed a run of answers as long
  as this one after a run as long as the one before (context modelling, as in Mahoney's PAQ);
* frequencies: how often the answer was yes of late, at three memories;
* whatever the caller adds: `committee` adds its chains.

**Mixture.** With x the logits of the signs and a constant one,

    Pr[B′ ≥ θ_j] = σ(w_jᵀ x),     w_j ~ N((1/n, …, 1/n, 0), 0.2² I) at first,

a Bayesian logistic regression for each threshold, learned one answer at a time by the extended Kalman filter:
with h = p (1 − p) and s = P x,

    w ← w + s (y − p) / (1 + h xᵀ s),     P ← P − h s sᵀ / (1 + h xᵀ s),

and P grows by 1/0.998 a step (taken sixteen steps at once), no further than it began. Such mixing in the
logistic domain (Mattern 2012) learns from every answer how far each sign can be believed, and sharpens or
blunts them together; weights by likelihood would only pick one. An answer comes every step and a late answer
is rare, so this learns much faster than any comparison of scores.

Levels are logarithms of budgets in costs of φ = 0, rounded to 1e-9; nothing depends on the unit of time.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVELS = ((1, 0.1), (1, 0.02), (0.3, 0.1), (0.3, 0.02), (0.1, 0.1), (0.1, 0.02), (0.6, 0.05))
"""Rates of the average, and of the variance of its surprises."""
RESIDUALS = ((1.0, 50), (1.0, 300), (0.4, 300))
"""Rates of the average, and how many of its surprises are kept."""
FREQUENCIES_STEPS = (10, 100, 400)
"""Half-lives."""
PRIOR_DEVIATION = 0.2
FORGETTING = 0.998
FORGETS_EVERY = 16
LOGIT = 6.0  # no sign is believed further than this
SHARE = 0.002
LOGISTIC = 1.702  # a logistic distribution of this slope is nearly the normal one
FIRST_VARIANCE = 0.01
LEAST_DEVIATION = 1e-4
PATTERN_BITS = 8
PATTERN_LIMIT = 250  # answers after which a pattern's frequency forgets the oldest
LEAST_VARIANCE = 1e-4  # of an answer
BELIEF = 0.85  # of a pattern never seen: that the answer stays as it is
PATTERNS = 2
OWN_SIGNS = len(LEVELS) + len(RESIDUALS) + PATTERNS + len(FREQUENCIES_STEPS)


class Forecast:
    """Probabilities that learn, for J thresholds (ascending logarithms) and `more` signs from outside."""

    def __init__(self, thresholds: Floats, more: int) -> None:
        self._thresholds: list[float] = thresholds.tolist()
        self._levels = Levels(thresholds)
        self._residuals = [Residuals(rate, size) for rate, size in RESIDUALS]
        self._pasts = [Past() for _ in self._thresholds]
        self._yes = np.zeros((len(FREQUENCIES_STEPS), len(thresholds)))
        self._steps = np.zeros((len(FREQUENCIES_STEPS), 1))
        signs = OWN_SIGNS + more
        self._logits = np.empty((signs, len(thresholds)))
        self._mixture = Mixture(len(thresholds), signs)

    def restart(self) -> None:
        """Begin another series: what was learned stays, what was going on does not."""
        self._levels.fresh = True
        for residuals in self._residuals:
            residuals.base = None
        for past in self._pasts:
            past.restart()

    def learn(self, log_budget: float) -> None:
        """Take the answers to the last questions: which thresholds this budget reaches."""
        answers = [1.0 if log_budget >= threshold else 0.0 for threshold in self._thresholds]
        for past, answer in zip(self._pasts, answers, strict=True):
            past.learn(answer)
        self._yes *= _KEEP
        self._yes += answers
        self._steps *= _KEEP
        self._steps += 1
        self._mixture.learn(answers)

    def prepare(self) -> None:
        """Do the part of the next `learn` that does not depend on the budget; it would be done there."""
        self._mixture.prepare()

    def predict(self, log_budget: float, more: list[list[float]]) -> list[float]:
        """Return Pr[B′ ≥ θ_j], J values, after this budget; `more` are J probabilities a sign."""
        pasts = [
            past.see(log_budget >= threshold)
            for past, threshold in zip(self._pasts, self._thresholds, strict=True)
        ]
        flat = [share for shares in zip(*pasts, strict=True) for share in shares]
        for residuals in self._residuals:
            flat += residuals.reach(log_budget, self._thresholds)
        for shares in more:
            flat += shares
        logits, levels = self._logits, len(LEVELS)
        self._levels.see(log_budget, logits[:levels])
        share = logits[levels:]
        share[: len(FREQUENCIES_STEPS)] = (self._yes + 0.5) / (self._steps + 1)
        share[len(FREQUENCIES_STEPS) :] = np.array(flat).reshape(-1, len(pasts))
        np.maximum(share, SHARE, out=share)
        np.minimum(share, 1 - SHARE, out=share)
        np.log(share / (1 - share), out=share)
        np.maximum(logits, -LOGIT, out=logits)
        np.minimum(logits, LOGIT, out=logits)
        return self._mixture.predict(logits)


class Levels:
    """Averages of the logarithm at several speeds, each with the variance of its surprises."""

    def __init__(self, thresholds: Floats) -> None:
        self.fresh = True
        self._thresholds = thresholds
        self._level = np.zeros(len(LEVELS))
        self._variance = np.full(len(LEVELS), FIRST_VARIANCE)

    def see(self, log_budget: float, logits: Floats) -> None:
        """Move the averages; `logits` (levels, J) becomes how far above each threshold they are."""
        if self.fresh:
            self.fresh = False
            self._level[:] = log_budget
        surprise = log_budget - self._level
        self._level += _LEVEL_RATES * surprise
        self._variance += _VARIANCE_RATES * (surprise * surprise - self._variance)
        slope = LOGISTIC / (np.sqrt(self._variance) + LEAST_DEVIATION)
        np.subtract(self._level[:, None], self._thresholds, out=logits)
        logits *= slope[:, None]


class Residuals:
    """The last surprises of one average, sorted, so that shares of them are found by bisection."""

    def __init__(self, rate: float, size: int) -> None:
        self.base: float | None = None
        self._rate = rate
        self._size = size
        self._order: deque[float] = deque()
        self._sorted: list[float] = []

    def reach(self, log_budget: float, thresholds: list[float]) -> list[float]:
        """Move the average; return the shares of surprises that would carry it to the thresholds."""
        if self.base is None:
            self.base = log_budget
        else:
            surprise = log_budget - self.base
            if len(self._order) == self._size:
                del self._sorted[bisect_left(self._sorted, self._order.popleft())]
            self._order.append(surprise)
            insort(self._sorted, surprise)
            self.base += self._rate * surprise
        kept = len(self._sorted)
        shares = []
        for threshold in thresholds:
            short = threshold - self.base
            reached = kept - bisect_left(self._sorted, short)
            shares.append((reached + (1.8 if short <= 0 else 0.2)) / (kept + 2))
        return shares


class Past:
    """The answers at one threshold: how often yes followed what came just before."""

    def __init__(self) -> None:
        self._known: dict[int, list[float]] = {}  # [frequency of yes, answers, at most the limit]
        self._found: list[list[float]] = []
        self.restart()

    def restart(self) -> None:
        """Forget the answers that led here."""
        self._answers = self._run = self._run_before = 0

    def learn(self, answer: float) -> None:
        """Credit the patterns found last with the answer that followed, 1 or 0."""
        for entry in self._found:
            entry[1] = seen = min(entry[1] + 1, PATTERN_LIMIT)
            entry[0] += (answer - entry[0]) / (seen + 1.5)

    def see(self, yes: bool) -> list[float]:
        """Add an answer; return the frequencies of yes after the patterns that it completes."""
        if yes == (self._answers & 1):
            self._run += 1
        else:
            self._run_before, self._run = self._run, 1
        self._answers = (self._answers << 1 | yes) & (2**PATTERN_BITS - 1)
        run = min(self._run.bit_length(), 10)
        before = min((self._run_before + 1).bit_length(), 6)
        self._found = []
        for pattern in (self._answers, (run * 8 + before) * 2 + yes + 2**PATTERN_BITS):
            entry = self._known.get(pattern)
            if entry is None:
                entry = self._known[pattern] = [BELIEF if yes else 1 - BELIEF, 0]
            self._found.append(entry)
        return [entry[0] for entry in self._found]


class Mixture:
    """J Bayesian logistic regressions on n logits and a constant, learned one answer at a time."""

    def __init__(self, rows: int, signs: int) -> None:
        self._weights = np.full((rows, signs + 1), 1 / signs)
        self._weights[:, -1] = 0.0
        self._spread = np.tile(PRIOR_DEVIATION**2 * np.eye(signs + 1), (rows, 1, 1))
        self._change = np.empty_like(self._spread)
        self._widest = PRIOR_DEVIATION**2 * signs
        self._x = np.ones((rows, signs + 1))
        self._p = [0.5] * rows
        self._learned = 0
        self._prepared = self._forgets = False
        self._towards = np.zeros_like(
            self._weights
        )  # where an answer moves the weights, for each error

    def predict(self, logits: Floats) -> list[float]:
        """Return J probabilities for logits (n, J), made to fall with the threshold."""
        self._prepared = False
        self._x[:, :-1] = logits.T
        sums = (self._weights * self._x).sum(axis=1).tolist()
        self._p = [1 / (1 + math.exp(-min(max(z, -9.0), 9.0))) for z in sums]
        return list(accumulate(self._p, min))

    def prepare(self) -> None:
        """Do the part of `learn` that is the same whatever the answers; `learn` does it if nobody did."""
        if self._prepared:
            return
        self._prepared = True
        if self._forgets:
            self._forgets = False
            narrow = np.trace(self._spread, axis1=1, axis2=2) < self._widest
            self._spread *= np.where(narrow, FORGETTING**-FORGETS_EVERY, 1.0)[:, None, None]
        s = np.matmul(self._spread, self._x[:, :, None])[:, :, 0]
        unsure = np.maximum((s * self._x).sum(axis=1), 0.0)
        p = np.array(self._p)
        h = np.maximum(p * (1 - p), LEAST_VARIANCE)
        shrinks = h / (1 + h * unsure)
        self._towards = s / (1 + h * unsure)[:, None]
        np.multiply((s * shrinks[:, None])[:, :, None], s[:, None, :], out=self._change)

    def learn(self, answers: list[float]) -> None:
        """Take the answers, J times 1 or 0, to what was predicted last."""
        self.prepare()
        errors = [answer - p for answer, p in zip(answers, self._p, strict=True)]
        self._weights += self._towards * np.array(errors)[:, None]
        self._spread -= self._change
        self._learned += 1
        self._forgets = self._learned % FORGETS_EVERY == 0


_KEEP = np.exp2(-1 / np.array(FREQUENCIES_STEPS))[:, None]
_LEVEL_RATES, _VARIANCE_RATES = np.array(LEVELS).T
