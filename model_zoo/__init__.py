"""What runs: ladders of variants, their profiles, and the warm pool of one process.

The data types import no torch; backends and the warm pool do, and live in their own modules.
"""

from .ladders import get_ladder
from .profile import Costs, Latency, Profile, VariantProfile
from .variants import Ladder, Variant

__all__ = ["Costs", "Ladder", "Latency", "Profile", "Variant", "VariantProfile", "get_ladder"]
