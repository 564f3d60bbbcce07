"""Laws of scaling: what a larger network of one family costs, and what it is worth, before it is measured.

One vocabulary for all of them (`compound`): a network of size φ is α^φ times as deep, β^φ times as wide
and sees images γ^φ times as large. Each further module holds one law, its source, and the experiment that
confirms or corrects it.
"""

from .compound import PUBLISHED, CompoundScaling

__all__ = ["PUBLISHED", "CompoundScaling"]
