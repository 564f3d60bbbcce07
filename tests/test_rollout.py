"""Policies over the air: shadowed, swapped, rolled back; files, signatures, configurations."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest

from adaphi.config import Config, Queue, Worker, taken
from adaphi.controller.policy_file import PolicyGate, PolicySource, WatchedFile, signature_path
from adaphi.controller.rollout import Rollout, chooser
from adaphi.controller.step import Controller, Reading
from adaphi.errors import ConfigError, PolicyError
from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.policies import TablePolicy
from adaphi.policies.choose import choose


def wandering(rows: int, seed: int, middle_ms: float = 17.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    level = np.zeros(rows)
    for t in range(1, rows):
        level[t] = 0.95 * level[t - 1] + random.normal(0, 0.12)
    return np.asarray(middle_ms * np.exp(level))


class Loop:
    """A frame loop: each answer meets the next budget."""

    def __init__(self, profile: Profile, policy: TablePolicy, **options: int) -> None:
        self.costs = profile.costs()
        self.controller = Controller(choose(policy, profile, watch=True), self.costs)
        self.rollout = Rollout(self.controller, chooser(Config(), profile), **options)
        self.news: list[str] = []

    def run(self, budgets: np.ndarray, slower: float = 1.0) -> None:
        for reading, met in zip(budgets[:-1].tolist(), budgets[1:].tolist(), strict=True):
            decision = self.controller.step(Reading(reading))
            on_time = bool(self.costs.need_ms[decision.previous, decision.phi] * slower <= met)
            self.controller.report(on_time)
            if news := self.rollout.observe(decision, on_time):
                self.news.append(news)


def test_a_policy_whose_promise_holds_takes_over_and_stays(profile: Profile) -> None:
    """Learned from budgets that move as these do: two hundred decisions in the shadow, then it is kept."""
    old = TablePolicy.solve(profile)
    new = TablePolicy.solve(profile, [wandering(4000, 0)])
    loop = Loop(profile, old, probation_steps=500)
    before = loop.controller.policy
    loop.rollout.offer(new)
    loop.run(wandering(151, 1))
    assert loop.rollout.state == "shadowed" and loop.controller.policy is before
    loop.run(wandering(151, 2))
    assert loop.rollout.state == "on probation" and loop.controller.policy is not before
    loop.run(wandering(601, 3))
    assert loop.rollout.state == "settled"
    assert [n.split(" after")[0] for n in loop.news] == ["took over", "kept"]


def test_a_policy_that_promises_too_much_never_takes_over(profile: Profile) -> None:
    """Learned where budgets are wide, offered where they are tight: refused, nothing changed."""
    loop = Loop(profile, TablePolicy.solve(profile, [wandering(4000, 0)]))
    before = loop.controller.policy
    loop.rollout.offer(TablePolicy.solve(profile, [wandering(4000, 0, middle_ms=60.0)]))
    loop.run(wandering(400, 1))
    assert loop.controller.policy is before and loop.rollout.state == "settled"
    assert len(loop.news) == 1 and loop.news[0].startswith("refused after")


def test_a_policy_that_breaks_on_probation_is_rolled_back(profile: Profile) -> None:
    """All runs become twice as slow after the swap: the policy before comes back."""
    loop = Loop(profile, TablePolicy.solve(profile), shadow_steps=50)
    before = loop.controller.policy
    loop.rollout.offer(TablePolicy.solve(profile, [wandering(4000, 0)]))
    loop.run(wandering(80, 1))
    assert loop.controller.policy is not before
    loop.run(wandering(400, 2), slower=2.5)
    assert loop.controller.policy is before and loop.rollout.state == "settled"
    assert loop.news[-1].startswith("rolled back after")


def test_a_policy_for_another_ladder_changes_nothing(profile: Profile) -> None:
    """The offer raises; a policy that was in the shadow already stays there."""
    loop = Loop(profile, TablePolicy.solve(profile))
    other = Profile(
        ladder="other",
        variants=(VariantProfile(0, "x", 0.5, Latency(p95=1.0)),),
        stall_ms=((0.0,),),
    )
    loop.rollout.offer(TablePolicy.solve(profile))
    with pytest.raises(PolicyError):
        loop.rollout.offer(TablePolicy.solve(other))
    assert loop.rollout.state == "shadowed"


def test_only_signed_policies_pass_a_gate_with_a_key(profile: Profile, tmp_path: Path) -> None:
    """Keys and signatures by openssl: the right one passes; none, another's, or other bytes do not."""
    policy = tmp_path / "policy.npz"
    TablePolicy.solve(profile).save(policy)
    for name in ("ours", "theirs"):
        key = tmp_path / f"{name}.key"
        for command in (
            ["genpkey", "-algorithm", "ed25519", "-out", key],
            ["pkey", "-in", key, "-pubout", "-out", tmp_path / f"{name}.pem"],
            [
                "pkeyutl",
                "-sign",
                "-rawin",
                "-inkey",
                key,
                "-in",
                policy,
                "-out",
                tmp_path / f"{name}.sig",
            ],
        ):
            subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
    gate = PolicyGate(tmp_path / "ours.pem")
    with pytest.raises(PolicyError, match=r"policy\.npz: the policy is not signed"):
        gate.load(policy)
    signature_path(policy).write_bytes((tmp_path / "theirs.sig").read_bytes())
    with pytest.raises(PolicyError, match="not the key's"):
        gate.load(policy)
    signature_path(policy).write_bytes((tmp_path / "ours.sig").read_bytes())
    assert gate.load(policy).ladder == "three"
    with pytest.raises(PolicyError, match="not the key's"):
        gate.open(policy.read_bytes() + b"\0", (tmp_path / "ours.sig").read_bytes())
    assert PolicyGate().load(policy).ladder == "three"  # without a key anything whole passes


def test_a_key_that_is_none_is_refused_in_words(tmp_path: Path) -> None:
    """A missing file, and a file that is something else."""
    with pytest.raises(ConfigError, match=r"no\.pem: No such file.*policy_key"):
        PolicyGate(tmp_path / "no.pem")
    (tmp_path / "bad.pem").write_text("nothing")
    with pytest.raises(ConfigError, match="not a public key"):
        PolicyGate(tmp_path / "bad.pem")


def test_a_file_changes_once(tmp_path: Path) -> None:
    """Written anew, put in its place, or signed, it has changed, once; gone it has not."""
    path = tmp_path / "p"
    path.write_text("one")
    watched = WatchedFile(path)
    assert not watched.changed()
    (tmp_path / "q").write_text("two")
    os.replace(tmp_path / "q", path)
    assert watched.changed() and not watched.changed()
    signature_path(path).write_text("signed")  # it may come a moment after what it signs
    assert watched.changed() and not watched.changed()
    path.unlink()
    assert not watched.changed()


def test_a_new_configuration_changes_what_may_change() -> None:
    """Policy, queue and default deadline are taken; what needs a restart is named and stays."""
    running = Config()
    wanted = msgspec.structs.replace(
        running, policy="new.npz", queue=Queue(max_requests=7), worker=Worker(threads=2)
    )
    config, fixed = taken(running, wanted)
    assert (config.policy, config.queue.max_requests, config.worker.threads) == ("new.npz", 7, 1)
    assert fixed == ["worker"]
    assert taken(running, running) == (running, [])
    assert taken(config, running)[1] == ["policy"], "to solve one takes a start"


def test_a_new_configuration_brings_its_policy_and_withdraws_the_one_before(
    profile: Profile, tmp_path: Path
) -> None:
    """A rule comes as a file does; what is no longer named never takes over; what is not there, nothing."""

    def named(policy: str) -> Config:
        return msgspec.structs.replace(Config(), policy=policy)

    file = str(tmp_path / "new.npz")
    TablePolicy.solve(profile).save(file)
    source = PolicySource(named("greedy"))
    loop = Loop(profile, TablePolicy.solve(profile))
    source.follow(named(file), loop.rollout)
    loop.run(wandering(101, 1))
    assert loop.rollout.state == "shadowed"
    with pytest.raises(PolicyError, match=r"gone\.npz: No such file"):
        source.follow(named(str(tmp_path / "gone.npz")), loop.rollout)
    source.follow(named("static:0"), loop.rollout)
    os.utime(file, (0, 0))
    source.look(loop.rollout)
    loop.run(wandering(202, 2))
    assert loop.controller.policy.name == "static:0", "the file's policy was withdrawn"
    source.follow(named("static:0"), loop.rollout)
    assert loop.rollout.state == "on probation", "named already, and so not offered again"
