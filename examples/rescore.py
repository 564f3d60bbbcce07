"""Score the decisions of a replay again, knowing nothing but the rules: standard library only.

    adaphi simulate … --decisions decisions.csv
    python examples/rescore.py profile.json decisions.csv [MISS_COST SWITCH_COST LATENCY]

Prints mean score, on-time share, switch share and mean quality as JSON. Raises AssertionError where a
row contradicts the one before it.
"""

import csv
import json
import sys


def rescore(profile: str, decisions: str, miss=0.5, switch=0.01, latency="p95"):
    """Return the four figures of a decisions file."""
    with open(profile) as file:
        facts = json.load(file)
    with open(decisions) as file:
        rows = list(csv.DictReader(file))
    active, reading, switches, qualities, score = 0, None, 0, [], 0.0
    for row in rows:
        chosen, budget = int(row["variant"]), float(row["budget_ms"])
        assert int(row["active"]) == active, row
        assert reading is None or float(row["reading_ms"]) == reading, row
        variant = facts["variants"][chosen]
        on_time = variant["latency_ms"][latency] + facts["stall_ms"][active][chosen] <= budget
        assert int(row["on_time"]) == on_time, row
        gained = variant["quality"] if on_time else -miss
        gained -= switch * (chosen != active)
        assert abs(float(row["score"]) - gained) < 1e-12, row
        qualities += [variant["quality"]] * on_time
        switches += chosen != active
        score += gained
        active, reading = chosen, budget
    return {
        "mean_score": score / len(rows),
        "on_time_share": len(qualities) / len(rows),
        "switch_share": switches / len(rows),
        "mean_quality": sum(qualities) / len(qualities) if qualities else 0.0,
    }


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    numbers = [float(x) for x in sys.argv[3:5]]
    print(json.dumps(rescore(sys.argv[1], sys.argv[2], *numbers, *sys.argv[5:6]), indent=2))
