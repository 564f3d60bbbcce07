"""The daemon as a process among processes: real models, real sockets, real faults."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from adaphi import AsyncClient, Client
from adaphi.controller import protocol
from adaphi.errors import (
    InvalidRequest,
    ProtocolError,
    RequestError,
    Shed,
    TooLarge,
    from_code,
)
from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.model_zoo.images import example_image
from adaphi.policies import QueuePlan, TablePolicy
from adaphi.sim import replay
from adaphi.sim.importing import import_flight

pytestmark = pytest.mark.alone

CONFIG = """
ladder = "profile.json"
[zmq]
bind = ["ipc://{folder}/a.sock"]
max_message_mb = 2
[http]
port = {port}
[budget]
sources = ["memory", "pushed"]
"""


@dataclass
class Served:
    """A running daemon."""

    process: subprocess.Popen[bytes]
    address: str
    url: str
    folder: Path

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=5) as answer:
            return str(answer.read().decode())


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


LATENCY_MS = (20.0, 26.0, 34.0)


def write_setup(
    folder: Path, ladder: str = "efficientnet-lite", name: str = "tf_efficientnet_lite{}"
) -> int:
    port = free_port()
    profile = Profile(
        ladder=ladder,
        variants=tuple(
            VariantProfile(phi, name.format(phi), q, Latency(p50=ms, p95=ms))
            for phi, (q, ms) in enumerate(zip((0.751, 0.767, 0.776), LATENCY_MS, strict=True))
        ),
        stall_ms=((0.0,) * 3,) * 3,
    )
    profile.save(folder / "profile.json")
    (folder / "adaphi.toml").write_text(CONFIG.format(folder=folder, port=port))
    return port


def start(folder: Path, **environ: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "adaphi", "serve", "--config", str(folder / "adaphi.toml")]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, **environ})


@dataclass
class Checked:
    """A folder, and how a daemon starts in it whose variants do nothing but take time: the checked ladder."""

    folder: Path
    port: int
    takes: str

    def start(self, takes_ms: Sequence[float] = LATENCY_MS) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        environ = {"PYTHONPATH": path, self.takes: ",".join(map(str, takes_ms))}
        return start(self.folder, **environ)


@pytest.fixture
def checked(bench: Callable[[str], Any], tmp_path: Path) -> Checked:
    """Return what shows the daemon's decisions without the seconds that it takes to load real models."""
    ladder = bench("checked")
    return Checked(tmp_path, write_setup(tmp_path, ladder.NAME, "checked{}"), ladder.TAKES)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("daemon")
    port = write_setup(folder)
    with start(folder) as process:
        daemon = Served(process, f"ipc://{folder}/a.sock", f"http://127.0.0.1:{port}", folder)
        try:
            with Client(daemon.address) as client:
                client.wait_until_ready(60)
            yield daemon
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.address) as client:
        client.wait_until_ready(60)
        yield client


def works(client: Client) -> None:
    answer = client.infer(example_image(), deadline_ms=2000)
    assert answer.output.shape == (1000,)


def test_a_cat_is_a_cat_to_every_variant(client: Client) -> None:
    """All three variants name the photograph of a cat."""
    cat = pytest.importorskip("skimage.data").chelsea()
    for phi in range(3):
        answer = client.infer(cat, deadline_ms=2000, phi=phi, top=1)
        assert answer.phi == phi and "cat" in answer.top[0][0]


def test_a_miss_that_can_be_foreseen_is_refused(client: Client) -> None:
    """A deadline that no variant can meet is answered at once, with no work begun."""
    with pytest.raises(Shed):
        client.infer(example_image(), deadline_ms=1)


def test_a_pushed_cap_holds(client: Client) -> None:
    """While φ ≤ 0 is pushed every answer comes from φ = 0; afterwards no longer."""
    client.push_budget(max_phi=0, ttl_s=30)
    assert client.infer(example_image(), deadline_ms=5000).phi == 0
    client.push_budget()
    assert client.infer(example_image(), deadline_ms=5000).phi == 2


def test_many_requests_may_be_under_way(served: Served, client: Client) -> None:
    """The asyncio client: eight pictures at once, each answered once, in the order of deadlines."""
    pictures = [np.full((64, 64, 3), 20 * k, np.uint8) for k in range(8)]
    alone = [client.infer(p, deadline_ms=5000, phi=0).output for p in pictures]

    async def ask() -> tuple[list[Any], list[int]]:
        finished: list[int] = []

        async def one(async_client: AsyncClient, k: int) -> Any:
            answer = await async_client.infer(pictures[k], deadline_ms=9000 - 500 * k, phi=0)
            finished.append(k)
            return answer

        async with AsyncClient(served.address) as async_client:
            assert (await async_client.hello()).ready
            await async_client.push_budget(budget_ms=1e4, ttl_s=0.1)
            answers = await asyncio.gather(*(one(async_client, k) for k in range(8)))
        return answers, finished

    answers, finished = asyncio.run(ask())
    for answer, expected in zip(answers, alone, strict=True):
        np.testing.assert_allclose(answer.output, expected, rtol=1e-4, atol=1e-4)
    assert finished == [0, 7, 6, 5, 4, 3, 2, 1]  # the first had started before the others came


def test_a_floor_of_quality_and_priorities_are_heeded(served: Served, client: Client) -> None:
    """Where the policy would take φ = 0 a floor takes what is good enough; 1 is served before 9."""
    picture = example_image()
    for floor, phi in ((0.7, 0), (0.76, 1), (0.776, 2)):
        answer = client.infer(picture, deadline_ms=2000, reading_ms=1, min_quality=floor)
        assert answer.phi == phi
    with pytest.raises(InvalidRequest, match="min_quality"):
        client.infer(picture, min_quality=0.9)

    async def ask() -> list[int]:
        finished: list[int] = []

        async def one(async_client: AsyncClient, priority: int) -> None:
            await async_client.infer(picture, deadline_ms=5000, priority=priority)
            finished.append(priority)

        async with AsyncClient(served.address) as async_client:
            await asyncio.gather(*(one(async_client, k) for k in (5, 9, 0, 1, 3)))
        return finished

    assert asyncio.run(ask()) == [5, 1, 3, 0, 9]  # the first had started before the others came


def test_health_and_state_over_http(served: Served, client: Client) -> None:
    """Alive, ready when warm, the state as JSON, and 404 for anything else."""
    assert served.get("/healthz") == "ok\n" and served.get("/readyz") == "ready\n"
    state = json.loads(served.get("/"))
    assert state["ready"] is True and state["worker_pid"] > 0
    with pytest.raises(urllib.error.HTTPError, match="404"):
        served.get("/nothing")


def test_deadlines_are_kept_under_more_than_can_be_served(served: Served, client: Client) -> None:
    """Forty requests at once with 150 ms each: every one is answered or refused within its time."""
    picture = example_image()

    async def ask() -> list[tuple[str, float]]:
        async def one(async_client: AsyncClient) -> tuple[str, float]:
            began = time.monotonic()
            try:
                answer = await async_client.infer(picture, deadline_ms=150)
                outcome = "late" if answer.late else "ok"
            except RequestError as error:
                outcome = error.code
            return outcome, time.monotonic() - began

        async with AsyncClient(served.address) as async_client:
            return await asyncio.gather(*(one(async_client) for _ in range(40)))

    outcomes = asyncio.run(ask())
    seen = {outcome for outcome, _ in outcomes}
    assert seen & {"ok", "late"} and seen <= {"ok", "late", "shed", "expired"}
    assert max(seconds for _, seconds in outcomes) < 0.150 + 1


def send_raw(served: Served, frames: list[bytes]) -> RequestError | None:
    """Send any frames; return the error that comes back, None if nothing does."""
    socket: Any = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(served.address)
    try:
        socket.send_multipart(frames)
        if not socket.poll(3000):
            return None
        kind, header, _ = protocol.split(socket.recv_multipart())
        assert kind == protocol.ERROR
        error = protocol.decode(protocol.ErrorHeader, header)
        return from_code(error.code, error.message)
    finally:
        socket.close()


def test_bad_messages_get_one_clear_answer(served: Served, client: Client) -> None:
    """Random bytes, wrong shapes and dtypes and too much data are refused; the daemon serves on."""
    random = np.random.default_rng(0)
    for _ in range(30):
        frames = [random.bytes(int(n)) for n in random.integers(1, 200, random.integers(1, 6))]
        assert isinstance(send_raw(served, frames), ProtocolError)
    for array in (np.zeros((4, 4, 2), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros(5)):
        header = protocol.InferHeader(1, array.dtype.name, array.shape, deadline_ms=2000)
        error = send_raw(served, [bytes(f) for f in protocol.encode(protocol.INFER, header, array)])
        assert isinstance(error, InvalidRequest), error
    header = protocol.InferHeader(1, "uint8", (3, 3, 3), deadline_ms=2000)
    short = [bytes(f) for f in protocol.encode(protocol.INFER, header, np.zeros(5, np.uint8))]
    assert isinstance(send_raw(served, short), InvalidRequest)
    large = [*short[:-1], bytes(3_000_000)]
    assert isinstance(send_raw(served, large), TooLarge)
    works(client)


def test_every_request_is_answered_when_the_worker_is_killed(
    served: Served, client: Client
) -> None:
    """`kill -9` of the worker: each request is answered before its deadline + 1 s; service returns."""
    killed_s, worst_s, outcomes = 0.0, 0.0, []
    deadline_s = 0.2
    until = time.monotonic() + 4
    while time.monotonic() < until:
        began = time.monotonic()
        if not killed_s and began > until - 3:
            os.kill(json.loads(served.get("/"))["worker_pid"], signal.SIGKILL)
            killed_s = began
        try:
            client.infer(example_image(), deadline_ms=deadline_s * 1e3)
            outcomes.append("ok")
        except RequestError as error:
            outcomes.append(error.code)
            time.sleep(0.02)
        worst_s = max(worst_s, time.monotonic() - began)
    assert worst_s < deadline_s + 1
    assert "no_answer" not in outcomes and {"worker_lost", "not_ready"} & set(outcomes)
    client.wait_until_ready(60)
    works(client)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_metrics(served: Served, client: Client) -> None:
    """`promtool check metrics` has nothing to say about what the daemon exposes."""
    works(client)
    text = served.get("/metrics")
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text.encode(), capture_output=True
    )
    assert checked.returncode == 0, checked.stderr.decode()
    assert "adaphi_requests_total" in text


def test_a_second_daemon_is_refused(served: Served) -> None:
    """A second daemon on the same address ends with one line that says why."""
    done = start(served.folder)
    _, stderr = done.communicate(timeout=30)
    assert done.returncode == 1
    assert b"adaphi: another daemon is listening" in stderr.splitlines()[-1]


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    """A TOML with an unknown key gives exit code 1 and one line with the key's path."""
    (tmp_path / "adaphi.toml").write_text("[worker]\nthread = 2\n")
    done = start(tmp_path)
    _, stderr = done.communicate(timeout=30)
    assert done.returncode == 1
    lines = stderr.decode().splitlines()
    assert len(lines) == 1 and "thread" in lines[0] and "$.worker" in lines[0]


def test_a_daemon_with_little_memory_plans_what_stays(tmp_path: Path) -> None:
    """Real models, memory for two of three: wide budgets are answered by φ = 2, tight ones by φ = 0, and
    what is resident never takes more than the limit."""
    port = free_port()
    text = (Path(__file__).parents[1] / "examples" / "profile.json").read_text()
    (tmp_path / "profile.json").write_text(text)
    size = [v["memory_bytes"] for v in json.loads(text)["variants"]]
    limit_mb = (size[0] + size[2]) / 1e6 + 2
    (tmp_path / "adaphi.toml").write_text(
        'policy = "policy.npz"\n'
        + CONFIG.format(folder=tmp_path, port=port)
        + f"[worker]\nmemory_limit_mb = {limit_mb}\n"
    )
    phases = np.repeat([500.0, 18.0, 500.0, 18.0], 200)
    TablePolicy.solve(Profile.load(tmp_path / "profile.json"), [phases]).save(
        tmp_path / "policy.npz"
    )
    with start(tmp_path) as process:
        try:
            with Client(f"ipc://{tmp_path}/a.sock") as client:
                client.wait_until_ready(60)
                counts = []
                for reading_ms in (500.0, 18.0, 500.0):
                    answers = [
                        client.infer(example_image(), deadline_ms=3000, reading_ms=reading_ms)
                        for _ in range(40)
                    ]
                    counts.append(Counter(a.phi for a in answers).most_common(1)[0][0])
                assert counts == [2, 0, 2]
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
                    state = json.load(page)
                assert state["policy"] == "resident" and 2 in state["resident"]
                assert sum(size[p] for p in state["resident"]) <= limit_mb * 1e6
        finally:
            process.terminate()
            process.wait(20)


def test_a_plan_for_queues_gives_way_to_those_who_wait(tmp_path: Path, checked: Checked) -> None:
    """Alone a request gets the best variant; in a crowd that it would make late most get a smaller one."""
    profile = Profile.load(tmp_path / "profile.json")
    plan = QueuePlan.solve(
        profile, deadline_ms=1000.0, rates_per_s=[1.0, 20.0], slowdowns=(1.0, 2.0), slack_bins=40
    )
    plan.save(tmp_path / "queue.npz")
    text = (tmp_path / "adaphi.toml").read_text()
    (tmp_path / "adaphi.toml").write_text('policy = "queue.npz"\n' + text)
    address, image = f"ipc://{tmp_path}/a.sock", example_image()

    async def crowd() -> Counter[int]:
        async with AsyncClient(address) as client:
            asked = [client.infer(image, deadline_ms=1000) for _ in range(45)]
            said = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(x, RequestError) for x in said if isinstance(x, BaseException))
            return Counter(x.phi for x in said if not isinstance(x, BaseException))

    with checked.start() as process:
        try:
            with Client(address) as client:
                client.wait_until_ready(60)
                alone = [client.infer(image, deadline_ms=1000).phi for _ in range(3)]
                assert alone == [2, 2, 2]
                answered = asyncio.run(crowd())
                assert answered[2] < answered.total() / 3 < answered[0]
                with urllib.request.urlopen(f"http://127.0.0.1:{checked.port}/") as page:
                    assert json.load(page)["policy"] == "queue"
        finally:
            process.terminate()
            process.wait(20)


SESSIONS = """
import asyncio, os, sys, zlib
import numpy as np
from adaphi import AsyncClient, Client

def is_right(client_answer, picture):
    low, high = client_answer.output[2:4]
    return int(low) | int(high) << 16 == zlib.crc32(picture.data)

def picture(k):
    return np.full((8, 8, 3), k, np.uint8)

again = AsyncClient(sys.argv[1])

async def ask(k):
    async with again:
        return is_right(await again.infer(picture(k), deadline_ms=5000), picture(k))

told = [asyncio.run(ask(k)) for k in (1, 2)]
with Client(sys.argv[1]) as client:
    told.append(is_right(client.infer(picture(3), deadline_ms=5000), picture(3)))
    child = os.fork()
    right = is_right(client.infer(picture(4 + bool(child)), deadline_ms=5000), picture(4 + bool(child)))
    if not child:
        os._exit(not right)
    told += [right, os.waitpid(child, 0)[1] == 0]
    told.append(is_right(client.infer(picture(6), deadline_ms=5000), picture(6)))
print(told)
"""


def test_whoever_connects_is_a_session_of_its_own(tmp_path: Path, checked: Checked) -> None:
    """Neither a client that is used again nor a process that was forked hears another's answers."""
    with checked.start((1.0, 2.0, 4.0)) as process:
        address = f"ipc://{tmp_path}/a.sock"
        try:
            with Client(address) as client:
                client.wait_until_ready(60)
            command = [sys.executable, "-c", SESSIONS, address]
            told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        finally:
            process.terminate()
    assert told.stdout.strip() == str([True] * 6)


def test_a_killed_daemon_leaves_its_recording(tmp_path: Path, checked: Checked) -> None:
    """After kill -9 the recording has every decision but the last half second's; `greedy` replayed on it
    decides as the daemon did."""
    with (tmp_path / "adaphi.toml").open("a") as file:
        file.write(f'[recorder]\nfolder = "{tmp_path}/flights"\n')
    text = (tmp_path / "adaphi.toml").read_text()
    (tmp_path / "adaphi.toml").write_text('policy = "greedy"\n' + text)
    readings = [500.0, 18.0, 28.0, 500.0, 18.0, 36.0, 500.0, 18.0, 28.0, 500.0, 22.0, 21.0]
    with checked.start() as process:
        try:
            with Client(f"ipc://{tmp_path}/a.sock") as client:
                client.wait_until_ready(60)
                for reading_ms in readings:
                    client.infer(example_image(), deadline_ms=3000, reading_ms=reading_ms)
            time.sleep(1.0)
        finally:
            process.kill()
            process.wait(20)
    trace = import_flight(tmp_path / "flights")
    assert trace.columns["reading_ms"].tolist() == readings
    again = replay(trace, Profile.load(tmp_path / "profile.json"), "greedy")
    assert again.decisions.tolist() == trace.columns["phi"][1:].tolist()


def test_policies_and_configurations_are_taken_while_it_runs(
    tmp_path: Path, checked: Checked
) -> None:
    """A push, a changed file and SIGHUP bring policies into the shadow; what is broken changes nothing."""
    profile = Profile.load(tmp_path / "profile.json")
    policy = TablePolicy.solve(profile, [np.full(50, 500.0)])
    policy.save(tmp_path / "one.npz")
    text = (tmp_path / "adaphi.toml").read_text()
    (tmp_path / "adaphi.toml").write_text('policy = "one.npz"\n' + text)
    url = f"http://127.0.0.1:{checked.port}"

    def rollout() -> str:
        with urllib.request.urlopen(url + "/", timeout=5) as page:
            return str(json.load(page)["rollout"])

    def eventually(state: str) -> None:
        until = time.monotonic() + 10
        while rollout() != state and time.monotonic() < until:
            time.sleep(0.05)
        assert rollout() == state

    with checked.start((1.0, 1.0, 1.0)) as process:
        try:
            with Client(f"ipc://{tmp_path}/a.sock") as client:
                client.wait_until_ready(60)
                assert rollout() == "settled"
                with pytest.raises(InvalidRequest, match="not a policy file"):
                    client.push_policy(b"nothing")
                (tmp_path / "one.npz").write_bytes(b"broken")
                os.kill(process.pid, signal.SIGHUP)
                time.sleep(0.5)
                assert rollout() == "settled"
                client.push_policy(policy.to_bytes())
                assert rollout() == "shadowed"
                small = example_image()[:64, :64]
                for _ in range(200):
                    client.infer(small, deadline_ms=3000, reading_ms=18.0)
                assert rollout() == "on probation"
                policy.save(tmp_path / "one.npz")
                eventually("shadowed")
                assert client.infer(example_image(), deadline_ms=3000).phi in (0, 1, 2)
        finally:
            process.terminate()
            process.wait(20)


def test_the_last_minutes_are_shown(served: Served, client: Client) -> None:
    """`/status` counts what was answered, `adaphi status` says it in words, a browser gets the page."""
    before = json.loads(served.get("/status"))["minute"]["answered"]
    for _ in range(5):
        client.infer(example_image(), deadline_ms=3000)
    with pytest.raises(Shed):
        client.infer(example_image(), deadline_ms=1)
    time.sleep(1.3)
    state = json.loads(served.get("/status"))
    assert state["minute"]["refused"] >= 1 and state["minute"]["late_share"] > 0
    assert state["minute"]["answered"] >= min(before, 1) + 4
    counted = {"answered", "late", "refused", "switches"}
    assert set(state["history"]) == {*counted, "active", "budget_ms"}
    assert len({len(values) for values in state["history"].values()}) == 1
    command = [sys.executable, "-m", "adaphi", "status", "--url", served.url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "ready" in said and "tf_efficientnet_lite" in said and "late, last minute" in said
    page = urllib.request.Request(served.url + "/", headers={"Accept": "text/html,*/*"})
    with urllib.request.urlopen(page, timeout=5) as answer:
        text = answer.read().decode()
    assert "<title>adaphi</title>" in text and "http://" not in text.replace(
        "http://www.w3.org", ""
    )
    assert json.loads(served.get("/"))["ready"] is True
    nobody = subprocess.run([*command[:-1], "http://127.0.0.1:9"], capture_output=True, text=True)
    assert nobody.returncode == 1 and "no daemon answered" in nobody.stderr


def test_a_browser_draws_the_page(served: Served, client: Client) -> None:
    """A real Chromium, its scripts run: facts are filled in, bars drawn, nothing fetched from outside."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    client.infer(example_image(), deadline_ms=3000)
    time.sleep(1.3)
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=3000",
    ]
    # No name is resolved, so whatever the page fetched from elsewhere would be missing.
    command += [
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        "--dump-dom",
        served.url + "/",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    page = done.stdout
    assert "efficientnet-lite · ready · tf_efficientnet_lite" in page, done.stderr
    assert "late, last minute" in page and "<rect" in page and ">the daemon does not" not in page


def test_sigterm_answers_what_was_accepted(served: Served, client: Client) -> None:
    """SIGTERM: what is running and what waits is answered, the exit code is 0, no process is left.

    It is the last one here, for it ends the daemon that the others share.
    """

    async def ask() -> list[Any]:
        async with AsyncClient(served.address) as async_client:
            asked = [
                asyncio.ensure_future(
                    async_client.infer(example_image(), deadline_ms=9000, phi=2, priority=k)
                )
                for k in range(4)
            ]
            await asked[0]
            served.process.terminate()
            return await asyncio.gather(*asked)

    assert [answer.phi for answer in asyncio.run(ask())] == [2, 2, 2, 2]
    _, stderr = served.process.communicate(timeout=20)
    assert served.process.returncode == 0, stderr.decode()
    left = subprocess.run(["pgrep", "-P", str(served.process.pid)], capture_output=True).stdout
    assert left == b""
