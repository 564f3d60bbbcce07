"""Reading policy files, whichever kind they are."""

from __future__ import annotations

from pathlib import Path

from . import artefact
from .queue_table import QueuePlan
from .table import TablePolicy

Solved = TablePolicy | QueuePlan
"""What `adaphi solve` writes."""


def from_bytes(content: bytes) -> Solved:
    """Return the policy in a file's content; raise `PolicyError`."""
    arrays, meta = artefact.unpack(content)
    if meta.get("kind") == "queue":
        return QueuePlan.from_parts(arrays, meta)
    return TablePolicy.from_parts(arrays, meta)


def load(path: str | Path) -> Solved:
    """Return the policy in a file; raise `PolicyError` naming it."""
    return artefact.read(path, from_bytes)
