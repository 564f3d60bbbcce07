"""What runs: ladders of variants, their profiles, and the warm pool of one process.

The data types import no torch; backends and the warm pool do, and live in their own modules.
"""

from .ladders import get_ladder
from .own import OwnVariant
from .profile import Costs, Latency, Profile, VariantProfile
from .variants import Ladder, Variant

__all__ = [
    "Costs",
    "Ladder",
    "Latency",
    "OwnVariant",
    "Profile",
    "Variant",
    "VariantProfile",
    "get_ladder",
]
