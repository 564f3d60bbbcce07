"""The inference protocol on a real daemon, real models: spoken by Triton's unmodified client, and by curl."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from adaphi import AsyncClient, Client
from adaphi.controller import body, http
from adaphi.errors import Busy
from adaphi.model_zoo import Latency, Profile, VariantProfile

pytestmark = pytest.mark.alone

triton = pytest.importorskip("tritonclient.http")
triton_aio = pytest.importorskip("tritonclient.http.aio")
CAT = pytest.importorskip("skimage.data").chelsea()

ROOT = Path(__file__).parents[1]
MODEL = "efficientnet-lite"
NAMES = [f"tf_efficientnet_lite{phi}" for phi in range(3)]
CONFIG = """
ladder = "profile.json"
[zmq]
bind = ["ipc://{folder}/a.sock"]
max_message_mb = 2
[http]
port = {port}
[budget]
sources = ["memory", "pushed"]
deadline_ms = 5000
"""


class Served:
    """A running daemon: where it answers, and what its metrics say."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = int(s.getsockname()[1])
        self.folder = folder
        self.host = f"127.0.0.1:{self.port}"
        self.address = f"ipc://{folder}/a.sock"
        variants = tuple(
            VariantProfile(phi, NAMES[phi], quality, Latency(p50=ms, p95=ms))
            for phi, (quality, ms) in enumerate([(0.751, 20.0), (0.767, 26.0), (0.776, 34.0)])
        )
        profile = Profile(ladder=MODEL, variants=variants, stall_ms=((0.0,) * 3,) * 3)
        profile.save(folder / "profile.json")
        (folder / "adaphi.toml").write_text(CONFIG.format(folder=folder, port=self.port))

    def requests(self, outcome: str) -> float:
        """Return how many requests ended with `outcome`."""
        with urllib.request.urlopen(f"http://{self.host}/metrics", timeout=5) as page:
            text = page.read().decode()
        found = re.findall(rf'adaphi_requests_total{{.*outcome="{outcome}".*}} (\S+)', text)
        return sum(map(float, found))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("http"))
    command = [sys.executable, "-m", "adaphi", "serve", "--config"]
    with subprocess.Popen([*command, str(served.folder / "adaphi.toml")]) as process:
        try:
            with Client(served.address) as client:
                client.wait_until_ready(60)
            yield served
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    client = triton.InferenceServerClient(served.host, concurrency=8)
    yield client
    client.close()


def image(picture: Any = CAT, binary: bool = True, package: Any = triton) -> Any:
    tensor = package.InferInput("image", list(picture.shape), "UINT8")
    tensor.set_data_from_numpy(picture, binary_data=binary)
    return tensor


def logits_by_zmq(served: Served, phi: int) -> Any:
    with Client(served.address) as zmq_client:
        return zmq_client.infer(CAT, phi=phi).output


def ask(served: Served, method: str, path: str, sent: bytes = b"", **headers: str) -> Any:
    """Return (status, JSON) of a plain HTTP request."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(
        f"http://{served.host}{path}", sent or None, names, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


# -------------------------------------------------------------------------------- conformance


def test_tritons_client_finds_out_what_is_served(client: Any) -> None:
    """Live, ready, metadata and configuration, with and without a version."""
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(MODEL) and client.is_model_ready(MODEL, NAMES[1])
    assert not client.is_model_ready("nothing") and not client.is_model_ready(MODEL, "7")
    server = client.get_server_metadata()
    assert server["name"] == "adaphi" and "binary_tensor_data" in server["extensions"]
    model = client.get_model_metadata(MODEL)
    assert (model["name"], model["versions"]) == (MODEL, NAMES)
    assert model["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, 3]}]
    assert client.get_model_metadata(MODEL, NAMES[2])["versions"] == [NAMES[2]]
    config = client.get_model_config(MODEL, NAMES[0])
    assert config["input"][0]["data_type"] == "TYPE_UINT8" and config["max_batch_size"] == 0


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize(("there", "back"), [(True, True), (False, True), (True, False)])
def test_answers_are_those_of_zeromq(
    served: Served, client: Any, compression: str | None, there: bool, back: bool
) -> None:
    """Binary and JSON tensors, both ways, plain and compressed: the same logits as over ZeroMQ."""
    expected = logits_by_zmq(served, 0)
    found = client.infer(
        MODEL,
        [image(binary=there)],
        model_version=NAMES[0],
        outputs=[triton.InferRequestedOutput("logits", binary_data=back)],
        request_id="nö 1",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    np.testing.assert_allclose(found.as_numpy("logits"), expected, rtol=1e-4, atol=1e-4)
    answer = found.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == (
        "nö 1",
        MODEL,
        NAMES[0],
    )


def test_a_cat_is_a_cat(client: Any) -> None:
    """The classification extension: value, index and name of the likeliest classes, in order."""
    plain = client.infer(NAMES[2], [image()]).as_numpy("logits")
    for binary in (True, False):
        wanted = triton.InferRequestedOutput("logits", binary_data=binary, class_count=3)
        rows = client.infer(NAMES[2], [image()], outputs=[wanted]).as_numpy("logits")
        parts = [str(r if isinstance(r, str) else r.decode()).split(":", 2) for r in rows]
        assert [int(index) for _, index, _ in parts] == np.argsort(-plain)[:3].tolist()
        assert all("cat" in name for _, _, name in parts)
        np.testing.assert_allclose([float(v) for v, _, _ in parts], np.sort(plain)[::-1][:3], 1e-3)


def test_parameters_choose_the_variant(client: Any) -> None:
    """A version, a model's name or a parameter pins; a floor of quality and a reading bind; all is told."""

    def answered(model: str = MODEL, **more: Any) -> dict[str, Any]:
        return dict(client.infer(model, [image()], **more).get_response()["parameters"])

    assert answered(model_version=NAMES[1])["phi"] == answered(NAMES[1])["phi"] == 1
    assert answered(parameters={"variant": NAMES[1]})["variant"] == NAMES[1]
    assert answered(parameters={"variant": 1, "deadline_ms": 3000.5})["phi"] == 1
    assert answered(parameters={"reading_ms": 1.0})["phi"] == 0
    told = answered(parameters={"reading_ms": 1.0, "min_quality": 0.76}, timeout=3_000_000)
    assert (told["phi"], told["quality"], told["late"]) == (1, 0.767, False)
    assert told["queue_ms"] >= 0 and 0 < told["inference_ms"] <= told["latency_ms"]


@pytest.mark.parametrize(
    ("status", "more"),
    [
        ("503", {"timeout": 1000}),
        ("503", {"parameters": {"deadline_ms": 1}}),
        ("400", {"parameters": {"deadline_ms": -1}}),
        ("400", {"parameters": {"min_quality": 0.99}}),
        ("400", {"parameters": {"variant": "nothing"}}),
        ("400", {"parameters": {"variant": 7}}),
        ("400", {"parameters": {"variant": 1}, "model_version": NAMES[0]}),
        ("400", {"priority": -1}),
        ("404", {"model_version": "7"}),
        ("404", {"model_name": "nothing"}),
    ],
)
def test_refusals_reach_tritons_client(client: Any, status: str, more: dict[str, Any]) -> None:
    """Each as an InferenceServerException with the status and a sentence."""
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException) as refused:
        client.infer(inputs=[image()], **({"model_name": MODEL} | more))
    assert refused.value.status() == status and len(refused.value.message()) > 10


def test_many_at_once_by_threads_and_by_asyncio(served: Served, client: Any) -> None:
    """`async_infer` and the asyncio client: each gets its own picture's answer."""
    pictures = [np.full((64, 64, 3), 40 * k, np.uint8) for k in range(6)]
    alone = [client.infer(NAMES[0], [image(p)]).as_numpy("logits") for p in pictures]
    waiting = [client.async_infer(NAMES[0], [image(p)]) for p in pictures]
    together = [w.get_result().as_numpy("logits") for w in waiting]

    async def by_asyncio() -> list[Any]:
        async with triton_aio.InferenceServerClient(served.host) as aio:
            assert await aio.is_server_ready() and await aio.is_model_ready(MODEL)
            assert (await aio.get_model_metadata(MODEL))["name"] == MODEL
            inputs = [image(p, package=triton_aio) for p in pictures]
            return await asyncio.gather(
                *(aio.infer(NAMES[0], [i], request_compression_algorithm="gzip") for i in inputs)
            )

    results = [r.as_numpy("logits") for r in asyncio.run(by_asyncio())]
    for one, two, three in zip(alone, together, results, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(one, three, rtol=1e-4, atol=1e-4)


def test_statistics_count_every_answer(served: Served, client: Any) -> None:
    """One entry for each variant; answers over ZeroMQ count as well; sums of times grow with them."""

    def stats() -> list[dict[str, Any]]:
        return list(client.get_inference_statistics()["model_stats"])

    before = stats()
    client.infer(MODEL, [image()], model_version=NAMES[1])
    logits_by_zmq(served, 1)
    after = stats()
    assert [(s["name"], s["version"]) for s in after] == [(MODEL, name) for name in NAMES]
    grown = [
        a["inference_count"] - b["inference_count"] for a, b in zip(after, before, strict=True)
    ]
    assert grown == [0, 2, 0]
    times = after[1]["inference_stats"]
    assert times["success"]["count"] == after[1]["inference_count"]
    assert times["success"]["ns"] >= times["queue"]["ns"] + times["compute_infer"]["ns"] > 0
    assert abs(after[1]["last_inference"] / 1e3 - time.time()) < 60
    assert client.get_inference_statistics(MODEL, NAMES[1])["model_stats"] == [after[1]]


def test_variants_are_unloaded_and_loaded(served: Served, client: Any) -> None:
    """An unloaded variant answers nothing, and others answer in its place; the last one stays."""
    from tritonclient.utils import InferenceServerException

    def states() -> list[str]:
        rows = client.get_model_repository_index()
        assert [(r["name"], r["version"]) for r in rows] == [(MODEL, name) for name in NAMES]
        return [r["state"] for r in rows]

    assert states() == ["READY"] * 3
    client.unload_model(NAMES[2])
    assert states() == ["READY", "READY", "UNAVAILABLE"]
    assert client.is_model_ready(MODEL) and not client.is_model_ready(NAMES[2])
    status, ready = ask(served, "POST", "/v2/repository/index", b'{"ready": true}')
    assert status == 200 and [r["version"] for r in ready] == NAMES[:2]
    assert client.infer(MODEL, [image()]).get_response()["model_version"] == NAMES[1]
    with pytest.raises(InferenceServerException, match="unloaded"):
        client.infer(NAMES[2], [image()])
    client.unload_model(NAMES[0])
    for name, said in ((NAMES[1], "last variant"), (MODEL, "name the variant")):
        with pytest.raises(InferenceServerException, match=said):
            client.unload_model(name)
    with pytest.raises(InferenceServerException, match="another configuration"):
        client.load_model(MODEL, config="{}")
    client.load_model(MODEL)
    assert states() == ["READY"] * 3
    assert client.infer(MODEL, [image()]).get_response()["model_version"] == NAMES[2]


def test_a_killed_workers_successor_keeps_to_the_orders(served: Served, client: Any) -> None:
    """`kill -9`: a request under way gets its answer or 503; what was unloaded does not come back."""
    from tritonclient.utils import InferenceServerException

    client.unload_model(NAMES[2])
    waiting = client.async_infer(MODEL, [image()])
    killed = ask(served, "GET", "/")[1]["worker_pid"]
    os.kill(killed, signal.SIGKILL)
    try:
        waiting.get_result()
    except InferenceServerException as error:
        assert error.status() == "503"
    until = time.monotonic() + 60
    while (
        ask(served, "GET", "/")[1]["worker_pid"] in (killed, None) or not client.is_server_ready()
    ):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert client.get_model_repository_index()[2]["state"] == "UNAVAILABLE"
    assert client.infer(MODEL, [image()]).get_response()["model_version"] == NAMES[1]
    client.load_model(NAMES[2])
    assert client.infer(NAMES[2], [image()]).get_response()["model_version"] == NAMES[2]


# -------------------------------------------------------------------------------- errors and limits


def test_every_error_is_json(served: Served) -> None:
    """Unknown paths, wrong methods and encodings, bad bodies and headers, and what is not HTTP at all."""
    infer = f"/v2/models/{MODEL}/infer"
    picture = json.dumps({"inputs": []}).encode()
    for expected, method, path, headers in (
        (404, "GET", "/nothing", {}),
        (404, "GET", "/v2/logging", {}),
        (404, "POST", "/v2/models/a/b/infer", {}),
        (405, "GET", infer, {}),
        (405, "DELETE", "/healthz", {}),
        (400, "POST", infer, {}),
        (415, "POST", infer, {"Content_Encoding": "br"}),
        (400, "POST", infer, {"Content_Encoding": "gzip"}),
        (400, "POST", infer, {"Inference_Header_Content_Length": "1e9"}),
        (431, "GET", "/", {"X_Long": "x" * 20_000}),
    ):
        sent = picture if method == "POST" else b""
        status, answer = ask(served, method, path, sent, **headers)
        assert (status, list(answer)) == (expected, ["error"]), (path, headers, answer)
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as connection:
        connection.sendall(b"\x00nonsense\r\n\r\n")  # what the parser itself refuses
        assert json.loads(connection.recv(4096).partition(b"\r\n\r\n")[2])["error"]


def test_sizes_are_limited(served: Served) -> None:
    """Too many bytes, also when they only inflate to too many, and shapes that no memory holds."""
    infer = f"/v2/models/{MODEL}/infer"
    bomb = gzip.compress(bytes(200_000_000), 9)
    assert len(bomb) < 200_000
    for sent, headers in ((bomb, {"Content_Encoding": "gzip"}), (bytes(3_000_000), {})):
        status, answer = ask(served, "POST", infer, sent, **headers)
        assert status == 413 and "2000000 bytes" in answer["error"]
    huge = {"name": "image", "shape": [8192, 8192, 3], "datatype": "UINT8"}
    for tensor in (huge | {"data": [1]}, huge | {"parameters": {"binary_data_size": 8192**2 * 3}}):
        status, answer = ask(served, "POST", infer, json.dumps({"inputs": [tensor]}).encode())
        assert status == 400, answer


async def boom(_: Request) -> Response:
    raise ZeroDivisionError("secret")


async def echo(request: Request) -> Response:
    return Response(bytes(await body.read_body(request, 100)))


async def talk(request: bytes) -> tuple[bytes, bytes]:
    """Return (head, body) of what a server in this very process answers."""
    listener = http.bind("127.0.0.1", 0)
    routes = [Route("/boom", boom), Route("/echo", echo, methods=["POST"])]
    server = http.make_server(CollectorRegistry(), lambda: True, dict, dict, routes)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(request)
    head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    server.should_exit = True
    await task
    return head, rest


def test_what_goes_wrong_inside_is_an_error_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """500 names the exception's kind and nothing of its inside; 408 comes where a body does not."""
    line = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head, rest = asyncio.run(talk(b"GET /boom" + line + b"\r\n"))
    assert b" 500 " in head and json.loads(rest) == {"error": "internal error: ZeroDivisionError"}
    head, rest = asyncio.run(talk(b"POST /echo" + line + b"Content-Length: 3\r\n\r\nabc"))
    assert b" 200 " in head and rest == b"abc"
    monkeypatch.setattr(body, "BODY_S", 0.1)
    head, rest = asyncio.run(talk(b"POST /echo" + line + b"Content-Length: 4\r\n\r\nabc"))
    assert b" 408 " in head and "0.1 s" in json.loads(rest)["error"]


def test_answers_do_not_wait_for_an_acknowledgement() -> None:
    """Nagle's algorithm is off on every connection that the daemon accepts."""

    async def main() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def on_connection(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = http.bind("127.0.0.1", 0)
        async with await asyncio.start_server(on_connection, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            nodelay = await accepted
            writer.close()
        return nodelay

    assert asyncio.run(main()) == 1


def test_what_is_held_has_a_limit() -> None:
    """Whoever leaves gives back what was taken, also after a refusal."""
    room = body.Room(100)
    with room.visit() as one:
        one.take(60)
        with pytest.raises(Busy, match="90 bytes"), room.visit() as other:
            other.take(30)
            other.take(11)
    with room.visit() as one:
        one.take(100)


def test_malformed_requests_leave_the_daemon_well(
    served: Served, client: Any, malformed: ModuleType
) -> None:
    """Hundreds over real sockets: each is answered in form, and a cat is still a cat."""
    seen = malformed.try_daemon(f"http://{served.host}", 400, seed=2)
    assert seen[400] > 100 and seen[404] and seen[405] and not seen[500]
    client.load_model(MODEL)
    assert int(client.infer(NAMES[0], [image()]).as_numpy("logits").argmax()) in range(281, 294)


# -------------------------------------------------------------------------------- going away


def test_a_client_that_goes_away_takes_its_request_along(served: Served, client: Any) -> None:
    """Its waiting request is cancelled, and no model ever runs it."""
    before = client.get_inference_statistics(MODEL, NAMES[1])["model_stats"][0]["inference_count"]
    cancelled = served.requests("cancelled")
    tensor = {"name": "image", "shape": [1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3]}
    sent = json.dumps({"inputs": [tensor], "parameters": {"variant": 1, "priority": 9}}).encode()
    head = (
        f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(sent)}\r\n\r\n"
    )

    async def main() -> None:
        async with AsyncClient(served.address) as busy:
            answers = [
                asyncio.ensure_future(busy.infer(CAT, phi=2, deadline_ms=20_000)) for _ in range(40)
            ]
            await asyncio.sleep(0)
            await busy.hello()  # answered in turn: by now all forty wait
            writers = []
            for _ in range(3):
                _, writer = await asyncio.open_connection("127.0.0.1", served.port)
                writer.write(head.encode() + sent)
                writers.append(writer)
            await asyncio.sleep(0.3)  # the forty take more than a second
            for writer in writers:
                writer.close()
            await asyncio.gather(*answers)

    asyncio.run(main())
    after = client.get_inference_statistics(MODEL, NAMES[1])["model_stats"][0]["inference_count"]
    assert served.requests("cancelled") - cancelled == 3 and after == before


# -------------------------------------------------------------------------------- the documentation


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_documentations_examples_work(served: Served, tmp_path: Path) -> None:
    """Every shell block of docs/http.md, in order, by bash; every Python block by python."""
    from PIL import Image

    Image.fromarray(CAT).save(tmp_path / "cat.jpg")
    page = (ROOT / "docs" / "http.md").read_text().replace("127.0.0.1:8757", served.host)
    blocks = re.findall(r"```(sh|python)\n(.*?)```", page, re.DOTALL)
    said = []
    for language, block in blocks:
        shell = (
            ["bash", "-e", "-o", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
        )
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            [*shell, block],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, block + done.stdout + done.stderr
        said.append(done.stdout)
    assert len(said) >= 5 and sum("cat" in out for out in said) >= 2
