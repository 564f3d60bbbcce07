"""A ladder inside your own process: load once, call with an image and a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from numpy.typing import NDArray

from ..errors import InvalidRequest
from ..model_zoo.ladders import get_ladder
from ..model_zoo.profile import Profile
from ..model_zoo.variants import Ladder, Variant
from ..policies.choose import choose
from ..policies.frame import Objective
from ..policies.lookup import Policy
from ..policies.table import TablePolicy
from .protocol import Answer
from .scheduler import Slowdown
from .step import Controller, Decision, Reading, blur_share

if TYPE_CHECKING:
    import torch

    from ..model_zoo.backends import Backend
    from ..model_zoo.pool import WarmPool

PolicyLike = str | Path | TablePolicy | Policy | None
"""A policy file, a rule's name, a policy; None: a table solved for a cautious default chain."""


class AdaptiveModel:
    """A warm ladder and a policy: call it, and it answers with the variant that the time admits.

        model = AdaptiveModel.from_ladder("efficientnet-lite", policy="policy.npz")
        answer = model("cat.jpg", deadline_ms=30)

    Not for several threads at once: one model runs at a time.
    """

    def __init__(
        self,
        pool: WarmPool,
        profile: Profile,
        policy: PolicyLike = None,
        *,
        latency: str = "p95",
        objective: Objective | None = None,
        adapt: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        decider = choose(
            policy,
            profile,
            latency=latency,
            objective=objective,
            adapt=adapt,
            memory_limit_bytes=pool.memory_limit_bytes,
        )
        costs = profile.costs(latency)
        self.pool = pool
        self.profile = profile
        self.controller = Controller(decider, costs)
        self.slowdown = Slowdown()
        self._clock = clock
        self._typical_ms = profile.typical_ms(latency)
        pool.load_all()

    def __repr__(self) -> str:
        return f"<AdaptiveModel(ladder={self.profile.ladder!r}, active={self.controller.active})>"

    @classmethod
    def from_ladder(
        cls,
        ladder: str = "efficientnet-lite",
        *,
        policy: PolicyLike = None,
        profile: Profile | str | Path | None = None,
        quality: Sequence[float] | None = None,
        backend: str | None = None,
        threads: int = 1,
        memory_limit_bytes: int | None = None,
        **options: Any,
    ) -> Self:
        """Load the ladder called `ladder`, warm; without a `profile` a quick one is measured first.

        `backend` is torch, onnx, openvino or auto, which measures what is installed and takes the fastest;
        None is the one that the profile was measured with, else torch. `options` go to the constructor.
        Raises `LadderError`, `ProfileError` or `PolicyError`.
        """
        from ..model_zoo.backends import get_backend
        from ..model_zoo.choosing import settle_backend

        if isinstance(profile, str | Path):
            profile = Profile.load(profile)
        variants = get_ladder(ladder, quality=quality, profile=profile)
        name, _ = settle_backend(backend, variants, profile, threads=threads)
        return cls._measured(
            variants,
            get_backend(name, threads=threads),
            profile,
            memory_limit_bytes,
            policy,
            options,
        )

    @classmethod
    def from_modules(
        cls,
        modules: Sequence[torch.nn.Module],
        *,
        quality: Sequence[float],
        example: NDArray[Any],
        names: Sequence[str] | None = None,
        policy: PolicyLike = None,
        profile: Profile | str | Path | None = None,
        threads: int = 1,
        memory_limit_bytes: int | None = None,
        **options: Any,
    ) -> Self:
        """Take your own modules, in order of cost, as a ladder.

        `example` is one input as calls will bring it, batch axis included. Raises `InvalidRequest`
        where the numbers of modules, qualities and names differ.
        """
        from ..model_zoo.backends.torch_eager import TorchBackend

        names = names or [f"module{phi}" for phi in range(len(modules))]
        if not len(modules) == len(quality) == len(names):
            raise InvalidRequest(
                f"{len(modules)} modules, {len(quality)} qualities, {len(names)} names"
            )
        variants = tuple(
            Variant(phi, name, q, "stated", "module")
            for phi, (name, q) in enumerate(zip(names, quality, strict=True))
        )
        return cls._measured(
            Ladder("modules", variants),
            TorchBackend(threads=threads, modules=modules, example=example),
            profile,
            memory_limit_bytes,
            policy,
            options,
        )

    @classmethod
    def _measured(
        cls,
        ladder: Ladder,
        backend: Backend,
        profile: Profile | str | Path | None,
        memory_limit_bytes: int | None,
        policy: PolicyLike,
        options: dict[str, Any],
    ) -> Self:
        from ..model_zoo.allocator import tune_allocator
        from ..model_zoo.pool import WarmPool
        from ..model_zoo.profiling import measure, pool_of

        tune_allocator()
        pool = WarmPool(ladder, backend, memory_limit_bytes=memory_limit_bytes)
        if profile is None:
            profile = measure(pool, rounds=5, cold_rounds=0)
        elif not isinstance(profile, Profile):
            profile = Profile.load(profile)
        return cls(pool_of(profile, pool), profile, policy, **options)

    def __call__(
        self,
        x: Any,
        *,
        deadline_ms: float,
        reading_ms: float | None = None,
        max_phi: int | None = None,
        top: int = 0,
        raw: bool = False,
        blur_px: float | None = None,
    ) -> Answer:
        """Answer one input within `deadline_ms` if any variant can.

        In a frame loop, where the budget of this very answer is not known, pass the last one as
        `reading_ms`: the policy then decides on it. `top` asks for that many class names. `blur_px` is how
        far the picture moved while it was taken, for a policy that knows motion blur. With `raw` the array
        is taken as it is, for ladders that take no images; modules always do. Raises
        `InvalidRequest` for an input that the ladder does not take.
        """
        if not deadline_ms >= 0:
            raise InvalidRequest(f"deadline_ms is {deadline_ms}; expected a number ≥ 0")
        began = self._clock()
        given = self._input(x, raw)
        blur = blur_share(blur_px, given)
        decision = self._decide(deadline_ms, reading_ms, max_phi, began, blur)
        run = self.pool.run(decision.phi, given, keep=decision.keep)
        latency_ms = (self._clock() - began) * 1e3
        if not run.cold:
            self.slowdown.observe(run.latency_ms, self._typical_ms[decision.phi], self._clock())
        labels = run.runner.labels(run.output, top) if top else ()
        return Answer(
            output=run.output,
            phi=decision.phi,
            latency_ms=latency_ms,
            late=latency_ms > deadline_ms,
            name=self.profile.variants[decision.phi].name,
            inference_ms=run.latency_ms,
            top=labels,
        )

    def _decide(
        self,
        deadline_ms: float,
        reading_ms: float | None,
        max_phi: int | None,
        now_s: float,
        blur: float | None,
    ) -> Decision:
        slack_ms = None
        if reading_ms is None:
            reading_ms = slack_ms = deadline_ms / self.slowdown.at(now_s)
        memory_bytes, resident = self.pool.memory_limit_bytes, self.pool.resident
        reading = Reading(reading_ms, max_phi, slack_ms, memory_bytes, resident, blur_share=blur)
        return self.controller.step(reading)

    def _input(self, x: Any, raw: bool) -> NDArray[Any]:
        if raw or self.pool.ladder.variants[0].weights == "module":
            import numpy as np

            return np.asarray(x)
        from ..model_zoo.images import as_image

        return as_image(x)
