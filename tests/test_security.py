"""Who is let in: files of keys, real encrypted sockets, HTTP's token, and docs/security.md as printed."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from adaphi import AsyncClient, Client
from adaphi.config import Zmq, load_config
from adaphi.controller import http, protocol
from adaphi.controller.daemon import _own
from adaphi.controller.local import LocalRouter
from adaphi.controller.policy_file import PolicyGate
from adaphi.controller.routers import Routers
from adaphi.controller.security import load_pair, load_token, make_keys
from adaphi.errors import ConfigError, InputError, NotAllowed, StartupError
from adaphi.model_zoo import Profile
from adaphi.policies import TablePolicy

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


# -------------------------------------------------------------------------------- files


def test_keys_are_private_and_never_overwritten(tmp_path: Path) -> None:
    """Whatever the umask only the owner reads them; a taken name changes nothing; clients can be added."""
    folder, before = tmp_path / "keys", os.umask(0)
    try:
        written = make_keys(folder, ["camera"])
    finally:
        os.umask(before)
    assert len(written) == 5 and all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in written)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    content = {path: path.read_bytes() for path in written}
    for names in (["drone", "camera"], ["server"], ["../up"], [""]):
        with pytest.raises(InputError):
            make_keys(folder, names)
    assert {p.name for p in make_keys(folder, ["drone"])} == {"drone.key", "drone.key_secret"}
    assert all(path.read_bytes() == before for path, before in content.items())


def test_a_daemon_s_pair_outlives_its_secret_half_s_move(tmp_path: Path) -> None:
    """The secret goes to the device; what clients know of it stays what it is."""
    make_keys(tmp_path, ["camera"])
    known = (tmp_path / "server.key").read_bytes()
    (tmp_path / "server.key_secret").rename(tmp_path / "moved")
    make_keys(tmp_path, ["drone"])
    assert (tmp_path / "server.key").read_bytes() == known
    assert not (tmp_path / "server.key_secret").exists()
    with pytest.raises(InputError, match="twice"):
        make_keys(tmp_path, ["a", "a"])


@pytest.mark.parametrize(("umask", "expected"), [(0, 0o770), (0o007, 0o770), (0o077, 0o700)])
def test_a_socket_is_closed_to_strangers_whatever_the_umask(
    tmp_path: Path, umask: int, expected: int
) -> None:
    """Whether its group may connect is the umask's to say, as the unit's does."""

    async def main() -> int:
        router = LocalRouter(f"ipc://{tmp_path}/s", 1000, lambda *_: None)
        mode = (tmp_path / "s").stat().st_mode & 0o777
        router.close()
        return mode

    before = os.umask(umask)
    try:
        assert asyncio.run(main()) == expected
    finally:
        os.umask(before)


def test_a_stranger_s_folder_is_not_taken_for_one_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is what a link in the lock's place names emptied."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = tmp_path / f"adaphi-{os.getuid()}"
    own.mkdir(mode=0o700)
    with _own(f"ipc://{own}/adaphi.sock"):
        pass
    own.chmod(0o777)
    with pytest.raises(ConfigError, match="others may write"), _own(f"ipc://{own}/adaphi.sock"):
        pass
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "s.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(StartupError), _own(f"ipc://{tmp_path}/s"):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_what_is_no_secret_is_refused(tmp_path: Path) -> None:
    """Files that everyone can read, public ones, damaged ones and short tokens, each by its name."""
    make_keys(tmp_path, ["camera"])
    assert len(load_pair(tmp_path / "camera.key_secret").secret) == 40
    (tmp_path / "broken").write_text('public-key = "short"\n')
    (tmp_path / "short").write_text("0123456789abcde\n")
    for path in (tmp_path / "broken", tmp_path / "short"):
        path.chmod(0o600)
    for name in ("server.key", "broken", "none"):
        with pytest.raises(ConfigError, match=name):
            load_pair(tmp_path / name)
    with pytest.raises(ConfigError, match="short"):
        load_token(tmp_path / "short")
    (tmp_path / "token").chmod(0o604)
    with pytest.raises(ConfigError, match="everyone can read"):
        load_token(tmp_path / "token")
    for half in (
        {"server_key": tmp_path / "server.key"},
        {"key_file": tmp_path / "camera.key_secret"},
    ):
        with pytest.raises(ConfigError, match="both"):
            Client("tcp://127.0.0.1:9", **half)


def test_addresses_beyond_this_machine_need_keys(tmp_path: Path) -> None:
    """Refused without, taken with both; paths are from the file's folder; HTTP alike with its token."""
    file = tmp_path / "a.toml"
    for address in ("tcp://0.0.0.0:1", "tcp://*:1", "tcp://eth0:1", "tcp://[::]:1"):
        for half in ("", "key_file = 'k'", "client_keys = 'c'"):
            file.write_text(f"[zmq]\nbind = ['{address}']\n{half}\n")
            with pytest.raises(ConfigError, match="adaphi keys"):
                load_config(file)
        file.write_text(f"[zmq]\nbind = ['{address}']\nkey_file = 'k'\nclient_keys = 'c'\n")
        config = load_config(file)
        assert config.zmq.key_file == str(tmp_path / "k")
        assert config.zmq.client_keys == str(tmp_path / "c")
    file.write_text("[http]\nhost = '0.0.0.0'\n")
    with pytest.raises(ConfigError, match="token_file"):
        load_config(file)
    file.write_text("[http]\nhost = '0.0.0.0'\ntoken_file = 't'\n")
    assert load_config(file).http.token_file == str(tmp_path / "t")


# -------------------------------------------------------------------------------- keys


@contextmanager
def routers(config: Zmq) -> Iterator[list[int]]:
    """Run the daemon's own sockets in a thread, where every hello is answered; yield the refusals so far."""
    context: zmq.Context[Any] = zmq.Context()
    refusals: list[int] = []
    running, over = threading.Event(), threading.Event()

    async def main() -> None:
        def reply(peer: Any, frames: list[Any]) -> None:
            id = protocol.decode(protocol.HelloHeader, bytes(frames[2])).id
            peer.send(protocol.encode(protocol.OK, protocol.OkHeader(id, ready=True)))

        served = Routers(context, config, reply, lambda: refusals.append(1))
        running.set()
        while not over.is_set():
            await asyncio.sleep(0.01)
        served.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert running.wait(10)
    try:
        yield refusals
    finally:
        over.set()
        thread.join()
        context.term()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    make_keys(folder, ["camera", "stranger"])
    (folder / "clients" / "stranger.key").rename(folder / "stranger.key")
    return folder


def given(folder: Path, name: str, server: str = "server") -> dict[str, Any]:
    return {"server_key": folder / f"{server}.key", "key_file": folder / f"{name}.key_secret"}


def test_only_known_keys_are_let_in(keys: Path, tmp_path: Path) -> None:
    """A known client is answered. An unknown key, none, and another daemon's key are refused in words, long
    before the deadline; a key that is added admits, one that is taken away no longer does."""
    port = free_port()
    address, local = f"tcp://127.0.0.1:{port}", f"ipc://{tmp_path}/local"
    config = Zmq(
        bind=[local, f"tcp://0.0.0.0:{port}"],
        key_file=str(keys / "server.key_secret"),
        client_keys=str(keys / "clients"),
    )
    with routers(config) as refusals:
        with Client(address, **given(keys, "camera")) as client, Client(local) as plain:
            assert client.hello().ready and plain.hello().ready
            assert refusals == []
        for options, why in (
            (given(keys, "stranger"), "does not know this client's key"),
            (given(keys, "camera", server="stranger"), "the daemon's key is another"),
            ({}, "only clients with a key"),
        ):
            with Client(address, **options) as client, pytest.raises(NotAllowed, match=why):
                client.hello()
        no_keys = pytest.raises(
            NotAllowed, match=r"uses no(ne| keys)"
        )  # either end may notice it first
        with Client(local, **given(keys, "camera")) as client, no_keys:
            client.hello()
        with Client(address, **given(keys, "stranger")) as client:
            with pytest.raises(NotAllowed):
                client.hello()
            (keys / "stranger.key").rename(keys / "clients" / "stranger.key")
            assert client.hello().ready
        (keys / "clients" / "stranger.key").write_text("broken")
        with Client(address, **given(keys, "stranger")) as client, pytest.raises(NotAllowed):
            client.hello()
        assert sum(refusals) >= 3

        async def ask(name: str) -> bool:
            async with AsyncClient(address, **given(keys, name)) as client:
                return (await client.hello()).ready

        assert asyncio.run(ask("camera"))
        with pytest.raises(NotAllowed):
            asyncio.run(ask("stranger"))


def test_a_daemon_without_its_keys_does_not_start(keys: Path) -> None:
    """No secret key, or no folder of clients: nothing is bound, and the file is named."""
    port = free_port()

    async def start(key_file: Path, client_keys: Path) -> None:
        context: zmq.Context[Any] = zmq.Context()
        try:
            bind = [f"tcp://0.0.0.0:{port}"]
            config = Zmq(bind=bind, key_file=str(key_file), client_keys=str(client_keys))
            Routers(context, config, lambda *_: None, lambda: None)
        finally:
            context.term()

    for key_file, client_keys in (
        (keys / "server.key", keys),
        (keys / "server.key_secret", keys / "no"),
    ):
        with pytest.raises((ConfigError, StartupError), match=r"server\.key|/no is no folder"):
            asyncio.run(start(key_file, client_keys))


# -------------------------------------------------------------------------------- HTTP


def test_http_asks_for_its_token() -> None:
    """Health is open; anything else needs the token, as Bearer, or as a password for what only reads."""
    token = b"0123456789abcdef"

    async def load(_: Any) -> Any:
        return PlainTextResponse("loaded")

    routes = [Route("/v2/repository/models/m/load", load, methods=["POST"])]
    listener = http.bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = http.make_server(
        CollectorRegistry(), lambda: True, lambda: {"ready": True}, dict, routes, token
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    while not server.started:
        time.sleep(0.01)

    def ask(path: str, given: str = "", method: str = "GET") -> tuple[int, Any]:
        headers = {"Authorization": given} if given else {}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url + path, headers=headers, method=method), timeout=10
            ) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 401:
                    assert "Bearer" in error.headers["WWW-Authenticate"]
                return error.code, error.read()

    bearer, basic = f"Bearer {token.decode()}", "Basic " + b64encode(b"me:" + token).decode()
    wrong = ["", "Bearer", "Bearer x", f"Bearer {token.decode()}x", "Basic é", "Basic " + "A" * 9]
    wrong += [f"Digest {token.decode()}", "Basic " + b64encode(token).decode()]
    load_path = "/v2/repository/models/m/load"
    try:
        assert ask("/healthz")[0] == ask("/readyz")[0] == 200
        for path in ("/", "/status", "/metrics", "/v2", "/nothing", "/healthz/", "//healthz"):
            for each in wrong:
                status, body = ask(path, each)
                assert status == 401 and b'"error"' in body, (path, each)
        for path in ("/", "/status", "/metrics"):
            assert ask(path, bearer)[0] == ask(path, basic)[0] == 200
        assert [ask(load_path, each, "POST")[0] for each in (*wrong, basic)] == [401] * 9
        assert ask(load_path, bearer, "POST") == (200, b"loaded")
    finally:
        server.should_exit = True
        thread.join()


# -------------------------------------------------------------------------------- the documentation


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_documentation_works(tmp_path: Path) -> None:
    """Every block of docs/security.md, in order: keys, a real daemon beyond loopback, clients, signing."""
    from PIL import Image

    data = pytest.importorskip("skimage.data")
    Image.fromarray(data.chelsea()).save(tmp_path / "cat.jpg")
    shutil.copy(ROOT / "examples" / "profile.json", tmp_path / "profile.json")
    TablePolicy.solve(Profile.load(tmp_path / "profile.json")).save(tmp_path / "policy.npz")
    port, web = str(free_port()), str(free_port())
    page = (ROOT / "docs" / "security.md").read_text()
    page = page.replace("10.0.0.5", "127.0.0.1").replace("5757", port).replace("8757", web)
    page = page.replace("/run/user/1000", str(tmp_path))
    blocks = re.findall(r"```(sh|python|toml)\n(.*?)```", page, re.DOTALL)
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    shell = {"sh": ["bash", "-e", "-o", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    said, daemon = "", None
    try:
        for language, block in blocks:
            if language == "toml":
                text = f'ladder = "profile.json"\n{block}port = {web}\n'
                (tmp_path / "adaphi.toml").write_text(text)
            elif "adaphi serve" in block:
                daemon = subprocess.Popen(block.split(), cwd=tmp_path, env=environ)
                with Client(f"ipc://{tmp_path}/adaphi.sock") as client:
                    client.wait_until_ready(60)
            else:
                command = [*shell[language], block]
                done = subprocess.run(
                    command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
                )
                assert done.returncode == 0, block + done.stdout + done.stderr
                said += done.stdout
    finally:
        if daemon is not None:
            daemon.terminate()
            assert daemon.wait(20) == 0
    assert daemon is not None and said.count("cat") >= 2 and "adaphi_ready 1.0" in said
    PolicyGate(tmp_path / "policy.pub").load(tmp_path / "policy.npz")
