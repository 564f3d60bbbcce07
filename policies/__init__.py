"""What decides: the switching problem and its solver, chains, the table policy, queues, the rules.

numpy only: nothing here imports torch, opens a socket or reads a clock.
"""

from .chain import Chain, default_chain, fit_chain
from .committee import Committee
from .frame import Objective, frame_mdp
from .lookup import Lookup, Policy
from .mdp import Solution, SwitchingMDP
from .operators import Banded, Kronecker
from .queue import QueueMDP
from .queue_table import QueuePlan
from .rules import rule
from .table import TablePolicy

__all__ = [
    "Banded",
    "Chain",
    "Committee",
    "Kronecker",
    "Lookup",
    "Objective",
    "Policy",
    "QueueMDP",
    "QueuePlan",
    "Solution",
    "SwitchingMDP",
    "TablePolicy",
    "default_chain",
    "fit_chain",
    "frame_mdp",
    "rule",
]
