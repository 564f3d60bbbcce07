"""What if: traces, replays, the clairvoyant bound, comparisons; through the daemon's decision code."""

from ..policies.trace import Trace
from .compare import Comparison, compare
from .importing import import_raw, to_budget
from .replay import Replay, clairvoyant, replay

__all__ = [
    "Comparison",
    "Replay",
    "Trace",
    "clairvoyant",
    "compare",
    "import_raw",
    "replay",
    "to_budget",
]
