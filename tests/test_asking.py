"""Retries and de-duplication: the client against a clock, and against an unreliable daemon of our own."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from adaphi import AsyncClient, Client
from adaphi.controller import protocol
from adaphi.controller.asking import Asker, Call
from adaphi.controller.dedup import Ledger
from adaphi.errors import Busy, NoAnswer, RequestError, Shed, TooLarge, WorkerLost

# -------------------------------------------------------------------------------- against a clock


class World:
    """A clock, a line that notes what is sent on it, and an asker between them."""

    def __init__(self, retries: int) -> None:
        self.now_s = 100.0
        self.up, self.secure, self.reached = True, False, False
        self.sent: list[
            tuple[float, Any]
        ] = []  # when, and the left_ms of a request or a hello's header
        self.asker = Asker("here", "me", retries, self, now=lambda: self.now_s, draw=lambda: 0.5)

    def send(self, frames: list[Any]) -> bool:
        if self.up:
            what = frames[0]
            if what == protocol.MAGIC:
                what = protocol.decode(protocol.HelloHeader, frames[2])
            self.sent.append((self.now_s, what))
        return self.up

    def dial(self) -> None:
        self.up = False

    def hang_up(self) -> None:
        self.up = False

    def hear(self, kind: bytes, header: msgspec.Struct, tensor: Any = None) -> None:
        frames = [bytes(frame) for frame in protocol.encode(kind, header, tensor)]
        self.asker.on_message(frames)


def outcome_of(world: World, id: int, kind: str) -> None:
    """Let the world answer a call: right, with an error of this code, or about its hello."""
    if kind == "answer":
        header = protocol.AnswerHeader(id, 0, "v0", 1.0, 0.0, 1.0, False, "uint8", (1,))
        world.hear(protocol.ANSWER, header, np.array([id % 256], np.uint8))
    elif kind.startswith("ok"):
        waiting = (id,) if kind == "ok waiting" else ()
        hellos = [h.id for _, h in world.sent if isinstance(h, protocol.HelloHeader)]
        ready = kind != "ok not ready"
        world.hear(
            protocol.OK,
            protocol.OkHeader(hellos[-1] if hellos else 0, ready=ready, waiting=waiting),
        )
    else:
        world.hear(protocol.ERROR, protocol.ErrorHeader(kind, "so it is", id))


WORDS = ["answer", "busy", "not_ready", "worker_lost", "draining", "shed", "lost", "connected"]
HELLOS = ["ok", "ok waiting", "ok not ready", "handshake failed"]
HAPPENINGS = st.one_of(st.sampled_from([*WORDS, *HELLOS]), st.floats(0.001, 0.7))


@given(
    st.lists(HAPPENINGS, max_size=40),
    st.integers(0, 5),
    st.floats(0.01, 3.0),
    st.sampled_from([0, 0.9]),
)
@settings(deadline=None, max_examples=300)
def test_a_call_ends_once_and_in_time(
    happenings: list[Any], retries: int, wait_s: float, patience_s: float
) -> None:
    """Whatever happens: one result by `until_s`, at most 1 + retries attempts, none after the deadline, each
    with the time that was left."""
    world, told = World(retries), []
    began_s = world.now_s
    call = Call(
        next(world.asker.ids),
        lambda left_ms: [left_ms],
        began_s,
        began_s + wait_s,
        began_s + wait_s + patience_s,
        lambda: told.append(world.now_s),
    )
    world.asker.ask(call)
    for happening in happenings:
        if isinstance(happening, float):
            until_s = world.now_s + happening
            while (step_s := world.asker.tick()) <= until_s - world.now_s:
                world.now_s += step_s
            world.now_s = until_s
        elif happening == "lost":
            world.up = False
            world.asker.on_event(zmq.EVENT_DISCONNECTED)
        elif happening == "connected":
            world.up = True
            world.asker.on_event(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        elif happening == "handshake failed":
            world.up = False
            world.asker.on_event(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
        else:
            outcome_of(world, call.id, happening)
        world.asker.tick()
    while (step_s := world.asker.tick()) < np.inf:
        world.now_s += step_s
    assert len(told) == 1 and told[0] <= call.until_s + 1e-9
    attempts = [(at_s, what) for at_s, what in world.sent if isinstance(what, float)]
    assert len(attempts) <= 1 + retries and len(attempts) == call.attempts
    for at_s, left_ms in attempts:
        assert at_s < call.deadline_s and left_ms == pytest.approx((call.deadline_s - at_s) * 1e3)
    if isinstance(call.result, protocol.Answer):
        assert call.result.output.tolist() == [call.id % 256]
    else:
        assert isinstance(call.result, RequestError)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 400), st.floats(0, 8)), max_size=60))
def test_what_is_remembered_is_bounded(answers: list[tuple[int, int, float]]) -> None:
    """Number, bytes and age hold at any time, and what is remembered is what was answered last."""
    now_s, last = 0.0, dict[tuple[str, int], bytes]()
    ledger = Ledger(keep_s=5.0, max_answers=4, max_bytes=1000, now=lambda: now_s)
    for number, (id, size, pause_s) in enumerate(answers):
        now_s += pause_s
        key = ("me", number * 10 + id)
        asked = ledger.begin(key, b"first")
        assert ledger.join(key, b"second") and asked.client == b"second"
        last[key] = bytes([number]) * size
        ledger.end(asked, [last[key]])
        assert not ledger.join(key, b"third")
        found = {k: ledger.recall(k) for k in last}
        kept = {k: frames for k, frames in found.items() if frames is not None}
        assert all(frames == [last[k]] for k, frames in kept.items())
        assert len(ledger) == len(kept) <= 4
        assert ledger.bytes == sum(len(last[k]) for k in kept) <= 1000


# -------------------------------------------------------------------------------- against a fake daemon


class Fake:
    """A daemon that does as it is told, written from the description of the wire alone.

    Each request takes the next word of the script: an error's code, `answer`, `twice` (answered twice),
    `drop` (never answered), `slow` (answered after the third hello that asks for it), `restart` (the socket
    closes and opens again) or `vanish` (it stays closed). For the first `unready` hellos it is not ready.
    """

    def __init__(self, address: str, script: list[str]) -> None:
        self.address, self.script = address, script
        self.requests: list[Any] = []  # the headers
        self.unready, self.hellos = 0, 0
        self._slow: Any = None
        self._done = threading.Event()
        self._open()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _open(self) -> None:
        self._router = zmq.Context.instance().socket(zmq.ROUTER)
        self._router.linger = 0
        self._router.bind(self.address)

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self._router.close()

    def _run(self) -> None:
        while not self._done.is_set():
            if not self._router.closed and self._router.poll(10):
                client, _, kind, header, *rest = self._router.recv_multipart()
                self._on_message(client, kind, msgspec.msgpack.decode(header), rest)
            else:
                time.sleep(0.001)

    def _on_message(self, client: bytes, kind: bytes, header: Any, rest: list[bytes]) -> None:
        if kind == b"H":
            self._on_hello(client, header)
            return
        self.requests.append(header)
        word = self.script.pop(0)
        if word in ("restart", "vanish"):
            self._router.close()
            time.sleep(0.1)
            if word == "restart":
                self._open()
        elif word == "slow":
            self._slow = header, rest
        elif word in ("answer", "twice"):
            for _ in range(1 + (word == "twice")):
                self._answer(client, header, rest)
        elif word != "drop":
            self._say(client, b"E", code=word, message="so it is", id=header["id"])

    def _on_hello(self, client: bytes, hello: Any) -> None:
        slow = [i for i in hello["asked"] if self._slow and i == self._slow[0]["id"]]
        self.hellos += bool(slow)
        ready, self.unready = self.unready <= 0, self.unready - 1
        about = {"id": hello["id"], "max_message_bytes": 1_000_000}
        self._say(client, b"K", **about, ready=ready, waiting=slow)
        if slow and self.hellos >= 3:
            self._answer(client, *self._slow)

    def _answer(self, client: bytes, header: Any, rest: list[bytes]) -> None:
        fields = {"phi": 0, "name": "v0", "latency_ms": 1.0, "queue_ms": 0.0}
        fields |= {"inference_ms": 1.0, "late": False, "dtype": "int64", "shape": [1]}
        total = np.frombuffer(rest[0], np.uint8).sum(dtype=np.int64).tobytes()
        self._say(client, b"A", total, id=header["id"], **fields)

    def _say(self, client: bytes, kind: bytes, *more: bytes, **header: Any) -> None:
        self._router.send_multipart([client, b"ADP1", kind, msgspec.msgpack.encode(header), *more])


def sync_ask(address: str, values: list[int], deadline_ms: float, **options: Any) -> list[Any]:
    with Client(address, **options) as client:
        return [
            outcome(lambda v=v: client.infer(picture(v), deadline_ms=deadline_ms)) for v in values
        ]


def async_ask(address: str, values: list[int], deadline_ms: float, **options: Any) -> list[Any]:
    async def main() -> list[Any]:
        found = []
        async with AsyncClient(address, **options) as client:
            for value in values:
                try:
                    answer = await client.infer(picture(value), deadline_ms=deadline_ms)
                    found.append(answer.output.item())
                except RequestError as error:
                    found.append(error)
        return found

    return asyncio.run(main())


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call().output.item()
    except RequestError as error:
        return error


def picture(value: int) -> Any:
    return np.full((8, 8, 3), value, np.uint8)


Ask = Callable[..., list[Any]]


@pytest.fixture(params=[sync_ask, async_ask], ids=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Return a function that asks for pictures, one after the other, and returns their sums or errors."""
    chosen: Ask = request.param
    return chosen


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Callable[..., Fake]]:
    """Return a function that starts a fake daemon with a script."""
    fakes: list[Fake] = []

    def start(*script: str) -> Fake:
        fakes.append(Fake(f"ipc://{tmp_path}/fake", list(script)))
        return fakes[-1]

    yield start
    for each in fakes:
        each.close()


@pytest.mark.parametrize(
    "script",
    [
        ["busy", "busy", "answer"],
        ["not_ready", "answer"],
        ["draining", "restart", "answer"],
        ["worker_lost", "answer"],
        ["restart", "answer"],
        ["drop", "answer"],
        ["drop", "busy", "restart", "twice"],
    ],
    ids=" ".join,
)
def test_what_passes_is_asked_again(fake: Callable[..., Fake], ask: Ask, script: list[str]) -> None:
    """Each attempt is the same request with the time left; what comes next is answered for itself."""
    daemon = fake(*script, "answer")
    assert ask(daemon.address, [3, 4], 20_000) == [3 * 192, 4 * 192]
    repeated = daemon.requests[:-1]
    assert len({(r["session"], r["id"]) for r in repeated}) == 1 and len(repeated) == len(script)
    left_ms = [r["deadline_ms"] for r in repeated]
    assert left_ms[0] <= 20_000 and sorted(left_ms, reverse=True) == left_ms
    assert daemon.requests[-1]["id"] != repeated[0]["id"] and daemon.script == []


@pytest.mark.parametrize(
    ("script", "retries", "error", "attempts"),
    [
        (["busy"], 0, Busy, 1),
        (["busy"] * 3, 2, Busy, 3),
        (["worker_lost"] * 2, 4, WorkerLost, 2),
        (["shed"], 4, Shed, 1),
        (["restart"] * 2, 1, NoAnswer, 2),
    ],
)
def test_retries_are_bounded(
    fake: Callable[..., Fake],
    ask: Ask,
    script: list[str],
    retries: int,
    error: type[RequestError],
    attempts: int,
) -> None:
    """As often as was said, and as the error is worth: then the error itself, long before the deadline."""
    daemon = fake(*script)
    [found] = ask(daemon.address, [1], 20_000, retries=retries)
    assert type(found) is error and len(daemon.requests) == attempts


def test_what_is_under_way_is_not_sent_again(fake: Callable[..., Fake], ask: Ask) -> None:
    """As long as the daemon says that it works on a request, only hellos ask for it."""
    daemon = fake("slow")
    assert ask(daemon.address, [3], 20_000) == [3 * 192]
    assert len(daemon.requests) == 1 and daemon.hellos >= 3


def test_a_daemon_that_is_not_ready_is_left_alone(fake: Callable[..., Fake], ask: Ask) -> None:
    """After a `not_ready` only hellos are sent until it is: one retry is enough, however long it takes."""
    daemon = fake("not_ready", "answer")
    daemon.unready = 4
    assert ask(daemon.address, [3], 20_000, retries=1) == [3 * 192]
    assert daemon.unready < 0 and len(daemon.requests) == 2


@pytest.mark.alone
def test_what_was_seen_is_said(fake: Callable[..., Fake], ask: Ask, tmp_path: Path) -> None:
    """Nobody there, gone after the first attempt, silent: three different sentences."""
    [nobody] = ask(f"ipc://{tmp_path}/none", [1], 100)
    assert isinstance(nobody, NoAnswer) and "nothing listens there; 0 attempts" in str(nobody)
    [gone] = ask(fake("vanish").address, [1], 500)
    assert "the connection was lost 0." in str(gone) and "; 1 attempt (" in str(gone)
    [silent] = ask(fake("drop").address, [1], 20_000, retries=0)
    assert "connected, but nothing comes; 1 attempt" in str(silent)


def test_a_silent_connection_is_replaced(ask: Ask, tmp_path: Path) -> None:
    """A peer that stops reading is given up, and the one that then takes its place answers."""
    address = f"ipc://{tmp_path}/fake"
    deaf: Any = zmq.Context.instance().socket(zmq.ROUTER)
    deaf.linger = 0
    deaf.bind(address)
    started: list[Fake] = []

    def replace() -> None:
        deaf.unbind(address)  # its connections stay, and stay silent
        started.append(Fake(address, ["answer"]))

    timer = threading.Timer(0.3, replace)
    timer.start()
    try:
        assert ask(address, [5], 20_000) == [5 * 192]
    finally:
        timer.join()
        deaf.close()
        started[0].close()


def test_the_async_client_keeps_what_it_was_given(
    fake: Callable[..., Fake], tmp_path: Path
) -> None:
    """A picture that is overwritten while it waits to be sent is answered as it was."""
    address = f"ipc://{tmp_path}/fake"

    async def main() -> Any:
        frame = np.full((300, 300, 3), 2, np.uint8)  # large enough to be sent without a copy
        async with AsyncClient(address) as client:
            task = asyncio.create_task(client.infer(frame, deadline_ms=20_000))
            await asyncio.sleep(0)
            frame[:] = 9
            fake("answer")
            return (await task).output.item()

    assert asyncio.run(main()) == 2 * 270_000


def test_numbers_of_numpy_are_numbers(fake: Callable[..., Fake]) -> None:
    """They are taken; what is no number is refused at once, and costs no other call anything."""
    daemon = fake("answer", "answer", "answer", "answer")

    async def main() -> None:
        async with AsyncClient(daemon.address) as client:
            with pytest.raises(TypeError):
                await client.infer(picture(1), phi=1.5)  # type: ignore[arg-type]
            answer = await client.infer(
                picture(2), phi=np.int64(1), top=np.int8(0), deadline_ms=np.float32(20_000)
            )
            assert answer.output.item() == 2 * 192

    asyncio.run(main())
    with Client(daemon.address) as client:
        with pytest.raises(TypeError):
            client.infer(picture(1), top=1.5)  # type: ignore[arg-type]
        answer = client.infer(picture(2), phi=np.int64(1), min_quality=np.float32(0.5))
        assert answer.output.item() == 2 * 192


def test_a_closed_client_says_so_at_once(fake: Callable[..., Fake]) -> None:
    client = Client(fake("answer").address)
    client.close()
    began_s = time.monotonic()
    with pytest.raises(NoAnswer, match="closed"):
        client.infer(picture(1), deadline_ms=20_000)
    with pytest.raises(NoAnswer, match="closed"):
        client.wait_until_ready()
    assert time.monotonic() - began_s < 10


def test_a_deadline_counts_from_the_call(
    fake: Callable[..., Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it takes to read a picture is part of it: here all of it."""
    late = 0.2

    def slow(image: Any) -> Any:
        time.sleep(late)
        return image

    monkeypatch.setattr("adaphi.controller.client.as_image", slow)
    client = Client(fake("answer").address, patience_s=0.1)
    with client, pytest.raises(NoAnswer, match="the deadline left no time"):
        client.infer(picture(1), deadline_ms=1e3 * late / 2)


def test_what_the_daemon_would_not_take_is_not_sent(fake: Callable[..., Fake]) -> None:
    """Once the client was told the daemon's limit, a larger picture is refused before it is sent."""
    daemon = fake("answer")
    with Client(daemon.address) as client:
        assert client.hello().max_message_bytes == 1_000_000
        with pytest.raises(TooLarge, match="at most 1000000"):
            client.infer(np.zeros((600, 600, 3), np.uint8), deadline_ms=20_000)
        assert client.infer(picture(3), deadline_ms=20_000).output.item() == 3 * 192


def test_a_cancelled_call_is_forgotten(fake: Callable[..., Fake]) -> None:
    """The task that asked is cancelled: its answer is nobody's, and the next call gets its own."""
    daemon = fake("drop", "answer")

    async def main() -> Any:
        async with AsyncClient(daemon.address) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.infer(picture(1), deadline_ms=20_000), 0.1)
            return (await client.infer(picture(2), deadline_ms=20_000)).output.item()

    assert asyncio.run(main()) == 2 * 192


def test_who_gets_no_answer_hears_whether_anybody_is_there() -> None:
    """Nobody listens; somebody does, and says nothing; and there was no time to find out."""
    picture = np.zeros((2, 2, 3), np.uint8)
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        there = f"tcp://127.0.0.1:{somebody.getsockname()[1]}"
        with Client(there) as client, pytest.raises(NoAnswer, match="somebody listens there"):
            client.infer(picture, deadline_ms=200)
    with Client(there) as client:
        with pytest.raises(NoAnswer, match="nothing listens there"):
            client.infer(picture, deadline_ms=100)
        with pytest.raises(NoAnswer, match="left no time"):
            client.infer(picture, deadline_ms=0)
