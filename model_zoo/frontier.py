"""What is worth keeping of a measured ladder: variants in order of cost, without those that another beats."""

from __future__ import annotations

import msgspec

from .profile import Profile, VariantProfile


def undominated(profile: Profile) -> Profile:
    """Return the variants in order of typical latency, without those that a quicker one equals in quality.

    φ counts 0, 1, 2, … anew; stalls follow. What was dropped stands in `conditions.dropped`.
    """
    typical_ms = profile.typical_ms("mean")
    by_cost = sorted(profile.variants, key=lambda v: (typical_ms[v.phi], -v.quality))
    kept: list[VariantProfile] = []
    dropped = []
    for variant in by_cost:
        if kept and variant.quality <= kept[-1].quality:
            figures = f"{typical_ms[variant.phi]:.1f} ms, {variant.quality:g}"
            dropped.append(f"{variant.name} ({figures}): {kept[-1].name} is quicker and as good")
        else:
            kept.append(variant)
    return _only(profile, kept, {"dropped": "; ".join(dropped)} if dropped else {})


def _only(
    profile: Profile, kept: list[VariantProfile], conditions: dict[str, str | int | float]
) -> Profile:
    places = [v.phi for v in kept]

    def of(matrix: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(matrix[m][a] for a in places) for m in places)

    return msgspec.structs.replace(
        profile,
        variants=tuple(msgspec.structs.replace(v, phi=phi) for phi, v in enumerate(kept)),
        stall_ms=of(profile.stall_ms),
        cold_stall_ms=None if profile.cold_stall_ms is None else of(profile.cold_stall_ms),
        conditions=profile.conditions | conditions,
    )
