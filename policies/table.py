"""The table policy: solved ahead of time, kept in one file, checked before it is used.

Inside, time is dimensionless: `edges` are budgets divided by the latency of φ = 0. So a policy solved
on one device serves another one whose ladder has the same ratios; `bind` puts the milliseconds back.

A policy file (`.npz`, schema 1) holds the arrays `edges` (E−1,), `table` (E, M), `counts` and `prior`
(E, E), `history` (the series it was solved on, one after the other) with `history_rows`, and `meta`, a
JSON text with the objective, the certificate, the fingerprints of ladder and profile, and the digest:
SHA-256 over the arrays and the rest of the text. With a battery to plan for, `meta` names it and the arrays
of its `BatteryPlan` are there too; with blur, those of its `BlurPlan`, named `blur_…`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import PolicyError
from ..model_zoo.profile import Costs, Profile
from . import artefact
from .battery import BatteryPlan, BatteryTable, plan_battery
from .blur import BlurPlan, BlurTable, plan_blur
from .certificate import Certificate, certify
from .chain import Chain, default_chain, default_series, fit_chain
from .frame import Objective, frame_mdp
from .lookup import Lookup
from .mdp import Solution

_SNAP = 1e-9  # relative: an edge this close to a threshold of the ladder is that threshold
_BATTERY_ARRAYS = ("prices", "tables", "answer_j", "drain_over_s", "drain_w")
_BLUR_ARRAYS = ("shares", "quality", "tables")
_HISTORY_ROWS = 20_000  # of each series: what a learning policy can still remember, and more

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TablePolicy:
    """A solved policy: `table` (E, M) over bins of the reading (`chain.edges`, in costs of φ = 0)."""

    table: NDArray[np.uint8]
    chain: Chain
    objective: Objective
    certificate: Certificate
    latency: str
    ladder: str
    ladder_fingerprint: str
    profile_fingerprint: str
    history: tuple[Floats, ...]
    """The series it was solved on, in costs of φ = 0: where a policy that learns begins."""
    battery: BatteryPlan | None = None
    blur: BlurPlan | None = None

    name = "table"

    @classmethod
    def solve(
        cls,
        profile: Profile,
        traces: Sequence[Floats] = (),
        *,
        objective: Objective | None = None,
        latency: str = "p95",
        chain: Chain | None = None,
    ) -> TablePolicy:
        """Return the optimal table for `profile` on the chain of `traces` (budgets in ms, 1-D each).

        Without traces a cautious default chain is used; with `chain` (edges in ms), that one. Raises
        ValueError where traces are unusable.
        """
        objective = objective or Objective()
        costs = profile.costs(latency)
        thresholds = costs.thresholds_ms
        if chain is None:
            chain = fit_chain(traces, thresholds) if len(traces) else default_chain(thresholds)
        series = [np.asarray(t, dtype=np.float64) for t in traces] or [default_series(thresholds)]
        table, solution = solve_table(costs, chain, objective)
        return cls(
            table=table,
            chain=chain.scaled(1 / costs.latency_ms[0]),
            objective=objective,
            certificate=certify(costs, chain, solution, series if len(traces) else ()),
            latency=latency,
            ladder=profile.ladder,
            ladder_fingerprint=profile.ladder_fingerprint,
            profile_fingerprint=profile.fingerprint,
            history=tuple(s[-_HISTORY_ROWS:] / costs.latency_ms[0] for s in series if len(s) >= 2),
        )

    def with_battery(
        self,
        profile: Profile,
        *,
        battery_j: float,
        horizon_s: float,
        period_s: float,
        drains: Sequence[tuple[Floats, Floats]] = (),
    ) -> TablePolicy:
        """Return the same policy with tables by price of energy, so that a battery lasts.

        `battery_j` joules are to last `horizon_s` seconds at one answer every `period_s`; `drains` are
        recordings (time_s, drain_w) of what everything else takes. Raises `ProfileError` where the energy
        of an answer is not known, ValueError for numbers that are not finite and above 0.
        """
        costs = profile.costs(self.latency)
        plan = plan_battery(
            costs,
            profile.joules(),
            self.chain_ms(costs),
            self.objective,
            battery_j=battery_j,
            horizon_s=horizon_s,
            period_s=period_s,
            drains=drains,
        )
        return replace(self, battery=plan)

    def with_blur(self, profile: Profile, shares: ArrayLike, kept: ArrayLike) -> TablePolicy:
        """Return the same policy with a table for each blur, `shares` (K,) of a picture's shorter side.

        `kept` (K, M) is which part of its quality each variant keeps there. Raises ValueError.
        """
        costs = profile.costs(self.latency)
        plan = plan_blur(costs, self.chain_ms(costs), self.objective, shares, kept)
        return replace(self, blur=plan)

    def chain_ms(self, costs: Costs) -> Chain:
        """Return the chain with its edges in milliseconds of this device.

        An edge that was a threshold of the ladder becomes that very threshold again, bit for bit.
        """
        chain = self.chain.scaled(costs.latency_ms[0])
        edges = chain.edges.copy()
        for threshold in costs.thresholds_ms:
            near = int(np.abs(edges - threshold).argmin()) if len(edges) else 0
            if len(edges) and abs(edges[near] - threshold) <= _SNAP * threshold:
                edges[near] = threshold
        return Chain(edges, chain.counts, chain.prior, chain.prior_strength)

    def bind(self, profile: Profile) -> Lookup:
        """Return the look-up for this device; raise `PolicyError` if the ladder is another one."""
        self._check_ladder(profile)
        return Lookup(self.name, self.chain_ms(profile.costs(self.latency)).edges, self.table)

    def bind_battery(self, profile: Profile) -> BatteryTable:
        """Return the tables by price for this device; raise `PolicyError` if there are none, or as `bind`."""
        self._check_ladder(profile)
        if self.battery is None:
            raise PolicyError("the policy plans for no battery", help="solve it with --battery-wh")
        return BatteryTable(self.battery, self.chain_ms(profile.costs(self.latency)).edges)

    def bind_blur(self, profile: Profile) -> BlurTable:
        """Return the tables by blur for this device; raise `PolicyError` if there are none, or as `bind`."""
        self._check_ladder(profile)
        if self.blur is None:
            raise PolicyError("the policy knows no blur", help="solve it with --blur")
        edges_ms = self.chain_ms(profile.costs(self.latency)).edges
        return BlurTable(self.blur, edges_ms, self.table)

    def _check_ladder(self, profile: Profile) -> None:
        if profile.ladder_fingerprint != self.ladder_fingerprint:
            raise PolicyError(
                f"the policy is for ladder {self.ladder!r} ({self.ladder_fingerprint}), "
                f"the profile for {profile.ladder!r} ({profile.ladder_fingerprint})",
                help="solve a policy for this profile with `adaphi solve`",
            )

    def to_bytes(self) -> bytes:
        """Return the policy file's content."""
        arrays: dict[str, NDArray[Any]] = {
            "edges": self.chain.edges,
            "table": self.table,
            "counts": self.chain.counts,
            "prior": self.chain.prior,
            "history": np.concatenate(self.history),
            "history_rows": np.array([len(series) for series in self.history]),
        }
        meta: dict[str, Any] = {
            "objective": asdict(self.objective),
            "certificate": asdict(self.certificate),
            "prior_strength": self.chain.prior_strength,
            "latency": self.latency,
            "ladder": self.ladder,
            "ladder_fingerprint": self.ladder_fingerprint,
            "profile_fingerprint": self.profile_fingerprint,
        }
        if self.battery is not None:
            plan = {field.name: getattr(self.battery, field.name) for field in fields(self.battery)}
            arrays |= {name: plan.pop(name) for name in _BATTERY_ARRAYS}
            meta["battery"] = plan
        if self.blur is not None:
            arrays |= {f"blur_{name}": getattr(self.blur, name) for name in _BLUR_ARRAYS}
        return artefact.pack(arrays, meta)

    def save(self, path: str | Path) -> None:
        """Write the policy to `path`, whole or not at all."""
        artefact.write(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> TablePolicy:
        """Read a policy; raise `PolicyError` with one line if anything in it is not as it was saved."""
        return artefact.read(path, cls.from_bytes)

    @classmethod
    def from_bytes(cls, content: bytes) -> TablePolicy:
        """Return the policy that `to_bytes` wrote; raise `PolicyError`."""
        return cls.from_parts(*artefact.unpack(content))

    @classmethod
    def from_parts(cls, arrays: artefact.Arrays, meta: dict[str, Any]) -> TablePolicy:
        """Return the policy of an unpacked file; raise `PolicyError` where parts do not fit together."""
        if meta.get("kind") == "queue":
            raise PolicyError(
                "the file plans a queue, which has no table of budgets",
                help="use it with `adaphi serve` or `adaphi requests`",
            )
        with artefact.whole():
            policy = cls(
                table=arrays["table"],
                chain=Chain(
                    arrays["edges"], arrays["counts"], arrays["prior"], meta["prior_strength"]
                ),
                objective=Objective(**meta["objective"]),
                certificate=_certificate(meta["certificate"]),
                latency=meta["latency"],
                ladder=meta["ladder"],
                ladder_fingerprint=meta["ladder_fingerprint"],
                profile_fingerprint=meta["profile_fingerprint"],
                history=tuple(np.split(arrays["history"], np.cumsum(arrays["history_rows"])[:-1])),
                battery=_battery(meta["battery"], arrays) if "battery" in meta else None,
                blur=_blur(arrays) if "blur_tables" in arrays else None,
            )
        _check(policy)
        return policy


def solve_table(
    costs: Costs, chain: Chain, objective: Objective
) -> tuple[NDArray[np.uint8], Solution]:
    """Return the optimal table (E, M) and its solution for a chain with edges in milliseconds."""
    solution = frame_mdp(costs, chain, objective).solve()
    return solution.policy.astype(np.uint8), solution


def _certificate(meta: dict[str, Any]) -> Certificate:
    """Return the certificate of a file's text, in which pairs are lists."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in meta.items()}
    return Certificate(**values)


def _battery(meta: dict[str, Any], arrays: artefact.Arrays) -> BatteryPlan:
    parts: dict[str, Any] = {name: arrays[name] for name in _BATTERY_ARRAYS}
    return BatteryPlan(**meta, **parts)


def _blur(arrays: artefact.Arrays) -> BlurPlan:
    return BlurPlan(*(arrays[f"blur_{name}"] for name in _BLUR_ARRAYS))


def _check(policy: TablePolicy) -> None:
    """Raise `PolicyError` where parts that are each intact do not fit together."""
    edges, table = policy.chain.edges, policy.table
    states = len(edges) + 1
    history = policy.history
    fits = (
        edges.ndim == 1
        and table.dtype == np.uint8
        and table.ndim == 2
        and table.shape[0] == states
        and (table < table.shape[1]).all()
        and policy.chain.counts.shape == policy.chain.prior.shape == (states, states)
        and bool((np.diff(edges) > 0).all())
        and all(len(s) >= 2 and np.isfinite(s).all() and (s >= 0).all() for s in history)
    )
    plan = policy.battery
    if plan is not None:
        prices = len(plan.prices)
        fits &= (
            prices > 0
            and plan.tables.dtype == np.uint8
            and plan.tables.shape == (prices, *table.shape)
            and bool((plan.tables < table.shape[1]).all())
            and plan.answer_j.shape == (prices,)
            and plan.drain_over_s.shape == plan.drain_w.shape
            and len(plan.drain_w) > 0
        )
    if policy.blur is not None:
        fits &= policy.blur.fits(table)
    if not fits:
        raise PolicyError("the policy's arrays do not fit together")
