"""Train a DQN of stable-baselines3 on first halves of traces, score it on the second beside the table.

    pip install 'adaphi[gym,fast]' stable-baselines3
    adaphi trace import raw.csv --as cpu_percent -o budget.csv          # budgets with a median of 50 ms
    python examples/dqn.py budget.csv … [--steps 60000] [--seeds 2] [--pooled] [--profile profile.json]

One network a trace, as there is one table a trace; with `--pooled` one network for all of them. Without a
profile the ladder takes 30, 42 and 55 ms, and 5 ms a switch. It sees the last four readings and the active
variant; nothing of it was tuned on second halves.
"""

import argparse
import time

import numpy as np
from gymnasium.wrappers import TransformReward
from stable_baselines3 import DQN

from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.sim import Trace, compare
from adaphi.sim.envs import BudgetTraceEnv

HISTORY = 4
EPISODE_STEPS = 200
MOST_SCORED = 4000
SETTINGS = {
    "gamma": 0.9,  # what a switch costs is earned back within some ten steps, or never
    "learning_rate": 5e-4,
    "learning_starts": 1000,
    "buffer_size": 50_000,
    "batch_size": 64,
    "target_update_interval": 1000,
    "exploration_fraction": 0.3,
    "exploration_final_eps": 0.02,
    "policy_kwargs": {"net_arch": [64, 64]},
}


def ladder():
    """Return three variants of 30, 42 and 55 ms with stalls of 5 ms."""
    facts = enumerate(zip((30.0, 42.0, 55.0), (0.748, 0.766, 0.775), strict=True))
    variants = [VariantProfile(phi, f"v{phi}", q, Latency(p95=ms)) for phi, (ms, q) in facts]
    stalls = tuple(tuple(5.0 * (a != b) for a in range(3)) for b in range(3))
    return Profile(ladder="30/42/55 ms", variants=tuple(variants), stall_ms=stalls)


def train(traces, profile, steps, seed):
    """Return a DQN that has learned from traces for so many steps."""
    env = BudgetTraceEnv(traces, profile, history=HISTORY, steps=EPISODE_STEPS)
    # Variants differ by hundredths: the same optimum, in numbers that a network can tell apart.
    env = TransformReward(env, lambda reward: 10 * (reward - profile.variants[0].quality))
    return DQN("MlpPolicy", env, seed=seed, device="cpu", **SETTINGS).learn(steps)


def score(model, trace, profile):
    """Return the mean score of a trained model on a trace: what `adaphi simulate` would say."""
    env = BudgetTraceEnv(trace, profile, history=HISTORY)
    seen, _ = env.reset()
    total, steps, over = 0.0, 0, False
    while not over:
        chosen, _ = model.predict(seen, deterministic=True)
        seen, reward, _, over, _ = env.step(chosen)
        total, steps = total + reward, steps + 1
    return total / steps


def main():
    """Train, score, print a line a trace."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", nargs="+", help="budget traces")
    parser.add_argument("--profile", help="of `adaphi profile`")
    parser.add_argument("--steps", type=int, default=60_000, help="that each network learns from")
    parser.add_argument("--seeds", type=int, default=2, help="networks each")
    parser.add_argument("--pooled", action="store_true", help="one network for all traces")
    given = parser.parse_args()
    profile = Profile.load(given.profile) if given.profile else ladder()
    halves = [Trace.read(path).split() for path in given.traces]
    began, seeds = time.perf_counter(), range(given.seeds)
    if given.pooled:
        networks = [train([a for a, _ in halves], profile, given.steps, s) for s in seeds]
    names = ["best rule", "table", "refreshed", "clairvoyant", *(f"DQN {s}" for s in seeds)]
    print(f"{'':24}" + "".join(f"{name:>12}" for name in ["steps", *names]))
    scores = []
    for first, second in halves:
        test = second[: MOST_SCORED + 1]
        if not given.pooled:
            networks = [train(first, profile, given.steps, s) for s in seeds]
        known = compare(first, test, profile)
        row = [known.best_rule, *known.tables, known.clairvoyant]
        row = [outcome.mean_score for outcome in row] + [score(n, test, profile) for n in networks]
        print(f"{first.name:24}{len(test) - 1:12}" + "".join(f"{x:12.4f}" for x in row), flush=True)
        scores.append(row)
    print(f"{'mean of traces':24}{'':12}" + "".join(f"{x:12.4f}" for x in np.mean(scores, axis=0)))
    print(f"{given.steps} steps a network, {time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
