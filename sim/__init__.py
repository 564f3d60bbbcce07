"""What if: traces, replays, the clairvoyant bound, comparisons; through the daemon's decision code."""

from .compare import Comparison, compare
from .replay import Replay, clairvoyant, replay
from .trace import Trace, import_raw

__all__ = ["Comparison", "Replay", "Trace", "clairvoyant", "compare", "import_raw", "replay"]
