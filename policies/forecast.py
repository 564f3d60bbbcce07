"""How likely the next budget is to reach each threshold: many simple forecasts, mixed by what they proved worth.

All that being on time depends on is which thresholds θ_j the next budget B′ reaches. Each j is a question of
yes or no, asked every step and answered by the budget that comes, whatever was chosen.

**Signs.** Each gives a probability of yes for every threshold:

* levels: the logarithm of the budget averaged exponentially, the next one taken as logistic around it with the
  deviation of its own recent surprises (the filter of ALERT, Wan et al. 2020, at several speeds);
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

and P grows by 1/0.998 a step, no further than it began. Such mixing in the logistic domain (Mattern 2012)
learns from every answer how far each sign can be believed, and sharpens or blunts them together; weights by
likelihood would only pick one. An answer comes every step and a late answer is rare, so this learns much
faster than any comparison of scores.

Levels are logarithms of budgets in costs of φ = 0, rounded to 1e-9; nothing depends on the unit of time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVELS = np.array(
    [(1, 0.1), (1, 0.02), (0.3, 0.1), (0.3, 0.02), (0.1, 0.1), (0.1, 0.02), (0.6, 0.05)]
)
"""Rates of the average, and of the variance of its surprises."""
RESIDUALS = ((1.0, 50), (1.0, 300), (0.4, 300))
"""Rates of the average, and how many of its surprises are kept."""
FREQUENCIES_STEPS = np.array([10.0, 100.0, 400.0])
"""Half-lives."""
PRIOR_DEVIATION = 0.2
FORGETTING = 0.998
_LOGIT = 6.0  # no sign is believed further than this
_LOGISTIC = 1.702  # a logistic distribution of this slope is nearly the normal one
_FIRST_VARIANCE = 0.01
_LEAST_DEVIATION = 1e-4
_PATTERN_BITS = 8
_PATTERN_LIMIT = 250.0  # answers after which a pattern's frequency forgets the oldest
_LEAST_VARIANCE = 1e-4  # of an answer
_BELIEF = 0.85  # of a pattern never seen: that the answer stays as it is
_LONGEST_RUN = 1023
_RUN_CLASS = np.minimum(np.log2(np.arange(1, _LONGEST_RUN + 2)), 9).astype(np.int64)


class Forecast:
    """Probabilities that learn, for J thresholds (ascending logarithms) and `more` signs from outside."""

    def __init__(self, thresholds: Floats, more: int) -> None:
        self._thresholds = thresholds
        count = len(thresholds)
        patterns = (2, count, 2**_PATTERN_BITS)
        self._level = np.zeros(len(LEVELS))
        self._variance = np.full(len(LEVELS), _FIRST_VARIANCE)
        self._base = np.zeros(len(RESIDUALS))
        self._residuals = np.full((len(RESIDUALS), max(n for _, n in RESIDUALS)), np.nan)
        self._kept = 0
        self._frequency = np.full(patterns, np.nan)
        self._seen = np.zeros(patterns)
        self._pattern = np.zeros((2, count), np.int64)
        self._yes = np.zeros((len(FREQUENCIES_STEPS), count))
        self._steps = np.zeros((len(FREQUENCIES_STEPS), 1))
        self._mixture = Mixture(count, len(LEVELS) + len(RESIDUALS) + 2 + len(self._yes) + more)
        self._places = (np.arange(2)[:, None], np.arange(count))
        self.restart()

    def restart(self) -> None:
        """Begin another series: what was learned stays, what was going on does not."""
        count = len(self._thresholds)
        self._fresh = True
        self._answers = np.zeros(count, np.int64)
        self._run = np.zeros(count, np.int64)
        self._run_before = np.zeros(count, np.int64)

    def learn(self, log_budget: float) -> None:
        """Take the answers to the last questions: which thresholds this budget reaches."""
        yes = (log_budget >= self._thresholds).astype(np.float64)
        self._mixture.learn(yes)
        place = (*self._places, self._pattern)
        seen = np.minimum(self._seen[place] + 1, _PATTERN_LIMIT)
        self._seen[place] = seen
        frequency = self._frequency[place]
        self._frequency[place] = frequency + (yes - frequency) / (seen + 1.5)
        keep = _KEEP
        self._yes = keep * self._yes + yes
        self._steps = keep * self._steps + 1

    def predict(self, log_budget: float, more: Floats) -> Floats:
        """Return Pr[B′ ≥ θ_j], (J,), after this budget; `more` are probabilities too, (signs, J)."""
        distances = self._observe(log_budget)
        frequencies = (self._yes + 0.5) / (self._steps + 1)
        shares = np.concatenate(
            [self._shares(log_budget), self._patterns(log_budget), frequencies, more]
        )
        shares = np.minimum(np.maximum(shares, 0.002), 0.998)
        logits = np.concatenate([distances, np.log(shares / (1 - shares))])
        return self._mixture.predict(np.minimum(np.maximum(logits, -_LOGIT), _LOGIT).T)

    def _observe(self, log_budget: float) -> Floats:
        """Move the averages, and return the thresholds' distances from the levels, (levels, J)."""
        if self._fresh:
            self._fresh = False
            self._level[:] = log_budget
            self._base[:] = log_budget
            surprise = np.zeros(len(LEVELS))
        else:
            surprise = log_budget - self._level
            base = log_budget - self._base
            for row, (_, size) in enumerate(RESIDUALS):
                self._residuals[row, self._kept % size] = base[row]
            self._kept += 1
            self._base = self._base + _BASE_RATES * base
        self._level = self._level + LEVELS[:, 0] * surprise
        self._variance = self._variance + LEVELS[:, 1] * (surprise * surprise - self._variance)
        slope = _LOGISTIC / (np.sqrt(self._variance) + _LEAST_DEVIATION)
        return np.asarray((self._level[:, None] - self._thresholds) * slope[:, None])

    def _shares(self, log_budget: float) -> Floats:
        """Return the shares of past surprises that would reach the thresholds, (residuals, J)."""
        short = self._thresholds - self._base[:, None]
        reached = np.count_nonzero(self._residuals[:, None, :] >= short[:, :, None], axis=2)
        kept = np.minimum(self._kept, _KEPT)
        return np.asarray((reached + 0.2 + 1.6 * (short <= 0)) / (kept + 2.0))

    def _patterns(self, log_budget: float) -> Floats:
        """Find the patterns that this budget completes, and return their frequencies, (2, J)."""
        yes = (log_budget >= self._thresholds).astype(np.int64)
        same = (self._answers & 1) == yes
        self._run_before = np.where(same, self._run_before, self._run)
        self._run = np.minimum(np.where(same, self._run, 0) + 1, _LONGEST_RUN)
        self._answers = (self._answers << 1 | yes) & (2**_PATTERN_BITS - 1)
        before = np.minimum(_RUN_CLASS[self._run_before], 5)
        self._pattern = np.stack(
            [self._answers, (_RUN_CLASS[self._run - 1] * 6 + before) * 2 + yes]
        )
        place = (*self._places, self._pattern)
        frequency = self._frequency[place]
        frequency = np.where(
            np.isnan(frequency), np.where(yes == 1, _BELIEF, 1 - _BELIEF), frequency
        )
        self._frequency[place] = frequency
        return np.asarray(frequency)


class Mixture:
    """J Bayesian logistic regressions on n logits and a constant, learned one answer at a time."""

    def __init__(self, rows: int, signs: int) -> None:
        self._weights = np.full((rows, signs + 1), 1 / signs)
        self._weights[:, -1] = 0.0
        self._spread = np.tile(PRIOR_DEVIATION**2 * np.eye(signs + 1), (rows, 1, 1))
        self._widest = PRIOR_DEVIATION**2 * signs
        self._x = np.ones((rows, signs + 1))
        self._p = np.full(rows, 0.5)

    def predict(self, logits: Floats) -> Floats:
        """Return the probabilities, (J,), made to fall with the threshold."""
        self._x[:, :-1] = logits
        z = (self._weights * self._x).sum(axis=1)
        self._p = 1 / (1 + np.exp(-np.minimum(np.maximum(z, -9.0), 9.0)))
        return np.asarray(np.minimum.accumulate(self._p))

    def learn(self, yes: Floats) -> None:
        """Take the answers (J,), 1 or 0, to what was predicted last."""
        p, x = self._p, self._x
        h = np.maximum(p * (1 - p), _LEAST_VARIANCE)
        s = (self._spread * x[:, None, :]).sum(axis=2)
        whole = 1 + h * np.maximum((s * x).sum(axis=1), 0.0)
        self._weights += s * ((yes - p) / whole)[:, None]
        self._spread -= (s * (h / whole)[:, None])[:, :, None] * s[:, None, :]
        wide = np.einsum("jii->j", self._spread) >= self._widest
        self._spread *= np.where(wide, 1.0, 1 / FORGETTING)[:, None, None]


_KEEP = 2 ** (-1 / FREQUENCIES_STEPS)[:, None]
_BASE_RATES = np.array([rate for rate, _ in RESIDUALS])
_KEPT = np.array([[size] for _, size in RESIDUALS])
