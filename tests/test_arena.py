"""The memory that front and worker share: what lies where, and that nothing is overwritten too soon."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaphi.controller.arena import SHORT_BYTES, SLOT_BYTES, SLOTS, Arena
from adaphi.controller.protocol import InferHeader, tensor_of

PLACE_BYTES = 1 << 20


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena(PLACE_BYTES)
    yield arena
    arena.close()


def seen_by_worker(arena: Arena) -> Any:
    """Return the memory as another process maps it."""
    return np.frombuffer(mmap.mmap(arena.descriptor, os.fstat(arena.descriptor).st_size), np.uint8)


def raw(tensor: Any) -> Any:
    return np.frombuffer(tensor.tobytes(), np.uint8)


@pytest.mark.parametrize("staged", [(), (1,), (0, 1, 2, 3), (2, 1)])
def test_tensors_lie_where_the_worker_looks(arena: Arena, staged: tuple[int, ...]) -> None:
    """Of any type and layout, staged before or not, or another instead; the last run's stay untouched."""
    memory = seen_by_worker(arena)
    tensors = [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        np.arange(60, dtype=np.int64).reshape(6, 10).T,
        np.zeros((0, 3), np.uint8),
        np.arange(7, dtype=np.float64),
    ]
    before, last = tensors[0], arena.put(tensors[0])
    for tensor in tensors:
        for other in staged:
            arena.stage(tensors[other])
        offset = arena.put(tensor, tensors[1])
        assert offset != last
        there = memory[offset:]
        np.testing.assert_array_equal(there[: tensor.nbytes], raw(tensor))
        np.testing.assert_array_equal(there[tensor.nbytes :][: 8 * 60], raw(tensors[1]))
        np.testing.assert_array_equal(memory[last:][: before.nbytes], raw(before))
        before, last = tensor, offset


def test_what_was_leased_is_put_without_a_copy(arena: Arena) -> None:
    """It lies where it was read to, also as another type; what is short or not contiguous is copied."""
    memory = seen_by_worker(arena)
    frame = arena.lease(24_000)
    frame[:] = bytes(range(240)) * 100
    tensor = np.frombuffer(frame, "<i2").reshape(100, 120)
    offset = arena.put(tensor)
    frame[0] = 99
    assert memory[offset] == 99
    short = arena.put(tensor[:1])
    frame[0] = 98
    assert memory[short] == 99
    turned = arena.put(tensor.T)
    np.testing.assert_array_equal(memory[turned:][:24_000], raw(tensor.T))
    arena.end_run()
    together = arena.put(tensor, tensor)
    np.testing.assert_array_equal(memory[together:][:48_000], np.tile(raw(tensor), 2))


def test_a_request_s_tensor_keeps_its_slot(arena: Arena) -> None:
    """What the protocol makes of a frame holds the memory that the frame was read to, alone or as a view."""
    header = InferHeader(1, "uint8", (10, 600, 4))
    kept = []
    for number in range(SLOTS):
        frame = arena.lease(24_000)
        frame[:] = bytes([number]) * 24_000
        tensor = tensor_of(header, [frame])
        kept.append(tensor if number % 2 else tensor[2:])
        del frame, tensor
    assert len({arena.put(tensor) for tensor in kept}) == SLOTS
    assert [tensor.max() for tensor in kept] == list(range(SLOTS))


def test_runs_told_ahead_keep_their_tensors(arena: Arena) -> None:
    """Short and long ones, staged or not, as many as there is room for: each lies there until it is over."""
    memory, rng = seen_by_worker(arena), np.random.default_rng(0)
    told: list[tuple[int, Any]] = []
    for size in rng.choice([1, 1026, SHORT_BYTES, SHORT_BYTES + 1, PLACE_BYTES], 400):
        tensor = rng.integers(0, 256, size, dtype=np.uint8)
        if rng.random() < 0.3:
            arena.stage(tensor)
        while not arena.has_room:
            told.pop(0)
            arena.end_run()
        told.append((arena.put(tensor), tensor))
        for offset, content in told:
            np.testing.assert_array_equal(memory[offset:][: content.size], content)
    assert len(told) > 2
    arena.forget_runs()
    assert arena.has_room


@given(
    st.lists(st.tuples(st.integers(0, 11), st.sampled_from([1, 5000, SLOT_BYTES, SLOT_BYTES + 1])))
)
def test_leases_never_overlap_and_come_back(orders: list[tuple[int, int]]) -> None:
    """Whatever is leased and dropped, in any order: what is held keeps its content, every slot returns."""
    arena, held = Arena(1), dict[int, tuple[Any, int]]()
    for number, (name, size) in enumerate(orders):
        held.pop(name, None)
        tensor = np.frombuffer(arena.lease(size), np.uint8)
        tensor[:3] = tensor[-3:] = number % 251
        held[name] = tensor.reshape(1, -1), number % 251  # a view of a view keeps the slot
        del tensor
        for kept, content in held.values():
            assert kept[0, 0] == kept[0, -1] == content
    held.clear()
    kept = None
    leases = [arena.lease(1) for _ in range(SLOTS)]
    inside = [arena.put(np.frombuffer(lease, np.uint8)) for lease in leases]
    assert len(set(inside)) == SLOTS
    del leases
    arena.close()
