"""The channel between front and worker: whole messages of any size, and the end of either side noticed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest

from adaphi.controller.arena import Arena
from adaphi.controller.channel import FrontEnd, WorkerEnd


class Note(msgspec.Struct):
    """A header."""

    number: int
    text: str = ""


@asynccontextmanager
async def both_ends() -> AsyncIterator[tuple[FrontEnd, WorkerEnd, list[tuple[bytes, Note, bytes]]]]:
    """Give a front's end, a worker's end, and what the front has heard."""
    heard: list[tuple[bytes, Note, bytes]] = []

    def on_message(kind: bytes, header: bytes, tensor: list[Any]) -> None:
        note = msgspec.msgpack.decode(header, type=Note)
        heard.append((kind, note, b"".join(map(bytes, tensor))))

    front, arena = FrontEnd(on_message), Arena(1)
    worker = WorkerEnd(os.dup(front.theirs), os.dup(arena.descriptor))
    front.hand_over()
    arena.close()
    try:
        yield front, worker, heard
    finally:
        front.close()
        worker.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_every_answer_arrives_whole_and_in_order() -> None:
    """Headers and tensors from nothing to megabytes, sent faster than they are read."""
    rng = np.random.default_rng(0)
    sizes = [0, 1, 13, 4000, 262_131, 262_144, 3_000_000, 5, *rng.integers(0, 100_000, 40).tolist()]
    tensors = [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]

    async def run() -> None:
        async with both_ends() as (_, worker, heard):

            def tell() -> None:
                for number, tensor in enumerate(tensors):
                    worker.tell(b"D", Note(number, "x" * (number * 97 % 5000)), tensor)
                    worker.tell(b"K", Note(number))

            teller = threading.Thread(target=tell)
            teller.start()
            await until(lambda: len(heard) == 2 * len(tensors))
            teller.join()
            for number, tensor in enumerate(tensors):
                kind, note, raw = heard[2 * number]
                assert (kind, note.number, len(note.text)) == (b"D", number, number * 97 % 5000)
                assert raw == tensor.tobytes()
                assert heard[2 * number + 1] == (b"K", Note(number), b"")

    asyncio.run(run())


def test_the_end_of_either_side_is_noticed() -> None:
    """A worker reads the end of the stream; a front hears what a worker said last, and can send no more."""

    async def run() -> None:
        async with both_ends() as (front, worker, heard):
            worker.tell(b"F", Note(1, "the reason"))
            worker.close()
            front.drain()
            assert heard == [(b"F", Note(1, "the reason"), b"")]
            assert not front.send(b"?")
        async with both_ends() as (front, worker, _):
            front.close()
            assert worker.wait(1000)
            with pytest.raises(EOFError):
                worker.receive()
            with pytest.raises(OSError):
                worker.tell(b"K", Note(0))

    asyncio.run(run())


def test_what_may_go_soon_keeps_its_place() -> None:
    """At the loop's next turn, or before what is sent at once; nothing twice, and nothing after the end."""

    async def run() -> None:
        async with both_ends() as (front, worker, _):
            front.send_soon(b"R", Note(0))
            front.send_soon(b"R", Note(1))
            assert not worker.wait(0)
            front.send(b"?", Note(2))
            front.send_soon(b"R", Note(3))
            await asyncio.sleep(0)
            read = [msgspec.msgpack.decode(worker.receive()[1], type=Note) for _ in range(4)]
            assert [note.number for note in read] == [0, 1, 2, 3]
            assert not worker.wait(0)
            front.send_soon(b"R", Note(4))
            front.close()
            await asyncio.sleep(0)
            with pytest.raises(EOFError):
                worker.receive()

    asyncio.run(run())


def test_a_worker_that_reads_nothing_blocks_nobody() -> None:
    """Orders are refused once they cannot be taken; what was taken arrives."""

    async def run() -> None:
        async with both_ends() as (front, worker, _):
            taken = 0
            while front.send(b"?", Note(taken, "x" * 100)):
                taken += 1
                assert taken < 1_000_000
            for number in range(taken):
                assert msgspec.msgpack.decode(worker.receive()[1], type=Note).number == number

    asyncio.run(run())
