"""The daemon's life, in order: serve, startup, main loop, drain, shutdown.

One thread, one loop. Clients talk to a ZeroMQ ROUTER; their requests go to the `Service`, which
schedules them onto the worker process and answers. Sensors are read on a timer. Nothing in this
process knows torch.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import zmq

from .. import __version__
from ..config import Config, Recorder, check_private, taken
from ..errors import (
    AdaphiError,
    Draining,
    NotReady,
    ProtocolError,
    RequestError,
    StartupError,
    TooLarge,
)
from ..model_zoo.profile import Profile
from . import flight, http, protocol, worker
from .arena import Arena
from .dedup import Asked, Ledger
from .flight import FlightRecorder
from .history import Second
from .inference import Inference
from .metrics import Metrics
from .notify import Notifier, Watchdog
from .oip_routes import OpenInference
from .policy_file import PolicySource
from .protocol import (
    AnswerHeader,
    BudgetHeader,
    HelloHeader,
    IdHeader,
    InferHeader,
    OkHeader,
    PolicyHeader,
)
from .rollout import chooser
from .routers import Peer, Routers
from .security import load_token
from .sensors import PushedBudget, make_sensor
from .service import Service, Ticket
from .supervisor import Supervisor

log = logging.getLogger("adaphi")

SWEEP_S, REST_S = 0.02, 0.1
"""How often waiting requests are looked through for expired ones, and the loop turns while there are none."""
FIRST_GUESS_S = 10.0
"""How long a worker is taken to need until it is warm, before one ever was."""
PATIENCE_S = 120
"""How much longer a service manager is asked to wait at each sign that the start goes on."""


class Daemon:
    """One device's daemon; `serve` runs it until a signal. Raises `StartupError` if it cannot start.

    On SIGHUP `reload` is called for a new configuration.
    """

    def __init__(self, config: Config, reload: Callable[[], Config] | None = None) -> None:
        self.config = config
        self._reload = reload or (lambda: config)
        given = Profile.load(config.ladder) if config.ladder.endswith(".json") else None
        self.profile = given
        self.boot_id = uuid.uuid4().hex[:12]
        self.metrics = Metrics(given.ladder if given else config.ladder, __version__)
        self.sensors = [
            make_sensor(source, config.budget.root, threads=config.worker.threads)
            for source in config.budget.sources
        ]
        for sensor in self.sensors:
            if not sensor.probe():
                log.warning("the budget source %r does not work here: it is left out", sensor.name)
        self.pushed = next((s for s in self.sensors if isinstance(s, PushedBudget)), None)
        self.service: Service | None = None  # exists from the first warm worker on
        self.draining = False
        self.notifier = Notifier()
        self.watchdog = Watchdog(self.notifier, lambda: self.supervisor.send(worker.ASK))
        self.policies = PolicySource(config)
        self.max_message_bytes = config.zmq.max_message_bytes
        self.ledger = Ledger()
        self._failed: StartupError | None = None
        self._worker_began_s = 0.0
        self._worker_takes_s = FIRST_GUESS_S

    @property
    def ready(self) -> bool:
        """Say whether requests are being served."""
        return self.service is not None and self.service.ready and not self.draining

    # ---------------------------------------------------------------------------- the life

    async def serve(self) -> None:
        """Run until SIGTERM or SIGINT, answer what was accepted, and leave nothing behind."""
        self.loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()
        with ExitStack() as stack:
            stack.enter_context(self._signals())
            for address in self.config.zmq.bind:
                stack.enter_context(_own(address))
            await self._startup()
            try:
                await self._main_loop()
                await self._drain()
            finally:
                await self._shutdown()
        if self._failed is not None:
            raise self._failed

    async def _startup(self) -> None:
        """Open the sockets, start the worker; until it is warm, requests are answered `NotReady`."""
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.arena = Arena(self.max_message_bytes)
        listener = http.bind(self.config.http.host, self.config.http.port)
        try:
            token = self._token()
            self.routers = Routers(
                self.context,
                self.config.zmq,
                self._on_client_message,
                self.metrics.refused_keys.inc,
                self.arena.lease,
            )
        except AdaphiError:
            listener.close()
            raise
        inference = Inference(self, self.arena.lease)
        self.http = http.make_server(
            self.metrics.registry,
            lambda: self.ready,
            self.status,
            self.status_with_history,
            OpenInference(inference).routes(),
            token,
            inference,
        )
        self.http_task = asyncio.create_task(self.http.serve(sockets=[listener]))
        self.supervisor = Supervisor(
            self._orders(), self.arena, self._on_worker_message, self._on_worker_loss
        )
        self._worker_began_s = self.loop.time()
        self.supervisor.start()
        log.info("listening on %s", ", ".join(self.config.zmq.bind))
        log.info("metrics on http://%s:%d/metrics", *listener.getsockname()[:2])

    async def _main_loop(self) -> None:
        """Read the sensors and sweep the queue until it is time to stop; the rest is callbacks."""
        next_reading_s = 0.0
        while not self.stopping.is_set():
            self.watchdog.beat(self.loop.time())
            if self.service is not None:
                self.service.sweep()
                if self.service.flight is not None:
                    self.service.flight.flush()
                    self.metrics.flight_lost.set(self.service.flight.lost)
                if self.loop.time() >= next_reading_s:
                    self.service.read_sensors()
                    self.policies.look(self.service.rollout)
                    next_reading_s = self.loop.time() + self.config.budget.interval_ms / 1e3
            rest_s = min(REST_S, self.config.budget.interval_ms / 1e3)
            resting = self.service is None or self.service.idle
            await asyncio.sleep(rest_s if resting else SWEEP_S)  # cheaper than a wait with a limit

    async def _drain(self) -> None:
        """Accept nothing new; finish what was accepted, for `drain_s` at most."""
        self.draining = True
        self.notifier.tell(STOPPING=1, STATUS="answering what was accepted")
        until_s = self.loop.time() + self.config.queue.drain_s
        while self.service is not None and not self.service.idle and self.loop.time() < until_s:
            self.service.sweep()
            await asyncio.sleep(SWEEP_S)

    async def _shutdown(self) -> None:
        """Answer what is left, end the worker, close the sockets, in this order."""
        self.draining = True
        if self.service is not None:
            self.service.abandon()
            if self.service.flight is not None:
                self.service.flight.close()
        await self.supervisor.stop()
        self.http.should_exit = True
        await asyncio.gather(self.http_task, return_exceptions=True)
        self.routers.close()
        self.context.term()
        self.arena.close()
        log.info("stopped")

    # ---------------------------------------------------------------------------- clients

    def _on_client_message(self, client: Peer, message: list[Any]) -> None:
        try:
            if sum(map(len, message)) > self.max_message_bytes:
                limit_mb = self.config.zmq.max_message_mb
                raise TooLarge(f"a message has at most {limit_mb:g} MB (zmq.max_message_mb)")
            self._dispatch(client, *protocol.split(message))
        except RequestError as error:
            self.metrics.count_refusal(error.code)
            self._send(client, protocol.error_frames(error, _id_of(message)))
        except (
            Exception
        ) as error:  # a bug: whoever met it hears of it, and the others are served on
            log.exception("a message could not be handled")
            failed = RequestError(f"internal error: {type(error).__name__}")
            self._send(client, protocol.error_frames(failed, _id_of(message)))

    def _dispatch(self, client: Peer, kind: bytes, header: bytes, rest: Any) -> None:
        if kind == protocol.INFER:
            self._on_infer(client, protocol.decode(InferHeader, header), rest)
        elif kind == protocol.BUDGET:
            self._push(protocol.decode(BudgetHeader, header))
            self._send_ok(client, protocol.decode(IdHeader, header).id)
        elif kind == protocol.POLICY:
            pushed = protocol.decode(PolicyHeader, header)
            if len(rest) != 1:
                raise ProtocolError(f"expected one frame with the policy, got {len(rest)}")
            self.policies.push(self.serving().rollout, bytes(rest[0]), pushed.signature)
            self._send_ok(client, pushed.id)
        elif kind == protocol.HELLO:
            hello = protocol.decode(HelloHeader, header)
            waiting = (id for id in hello.asked if self.ledger.join((hello.session, id), client))
            self._send_ok(client, hello.id, tuple(waiting))
        else:
            raise ProtocolError(f"no message is of the kind {kind!r}")

    def _on_infer(self, client: Peer, infer: InferHeader, rest: Any) -> None:
        """Let a request be served; one that was sent before is joined to itself, or answered as it was."""
        protocol.check_numbers(infer)
        tensor = protocol.tensor_of(infer, rest)
        key = (infer.session, infer.id) if infer.session else None
        if key is not None and self.ledger.join(key, client):
            self.metrics.repeated.labels("joined").inc()
            return
        if key is not None and (answer := self.ledger.recall(key)) is not None:
            self.metrics.repeated.labels("remembered").inc()
            self._send(client, answer)
            return
        asked = self.ledger.begin(key, client)
        try:
            ticket = Ticket(infer.id, partial(self._reply, asked, infer.id))
            self.serving().submit(ticket, infer, tensor)
        except BaseException:
            self.ledger.end(asked)
            raise

    def _on_hangup(self) -> None:
        """Take what can be changed while running from a new configuration; a bad one changes nothing."""
        try:
            config, fixed = taken(self.config, self._reload())
            self.policies.follow(config, self.service.rollout if self.service else None)
        except AdaphiError as error:
            log.error("the configuration is not taken: %s", error)
            return
        if fixed:
            log.warning("these need a restart: %s", ", ".join(fixed))
        self.config = config
        if self.service is not None:
            self.service.take(config)
        log.info("the configuration was taken")

    def serving(self) -> Service:
        """Return what serves requests; raise `Draining` or `NotReady` where nothing does."""
        if self.draining:
            raise Draining("the daemon is shutting down")
        if self.service is None:
            raise NotReady("the models are not warm yet")
        return self.service

    def _reply(self, asked: Asked, id: int, what: AnswerHeader | RequestError, rest: Any) -> None:
        if (size := sum(map(len, rest))) > self.max_message_bytes:
            limit_mb = self.config.zmq.max_message_mb
            what = TooLarge(
                f"the answer has {size / 1e6:.0f} MB, and a message at most {limit_mb:g} (zmq.max_message_mb)"
            )
        if isinstance(what, RequestError):
            frames, passes = protocol.error_frames(what, id), what.retries > 0
        else:
            frames, passes = [*protocol.encode(protocol.ANSWER, what), *rest], False
        self._send(asked.client, frames)
        self.ledger.end(asked, None if passes else frames)

    def _push(self, header: BudgetHeader) -> None:
        if self.pushed is None:
            raise ProtocolError("budgets cannot be pushed: 'pushed' is not among budget.sources")
        self.pushed.push(self.loop.time(), header.budget_ms, header.max_phi, header.ttl_s)
        if self.service is not None:
            self.service.read_sensors()

    def _send(self, client: Peer, frames: list[Any]) -> None:
        if not client.send(frames):
            log.debug("a client went away before its answer")

    def _send_ok(self, client: Peer, id: int, waiting: tuple[int, ...] = ()) -> None:
        profile, service = self.profile, self.service
        header = OkHeader(
            id=id,
            version=__version__,
            boot_id=self.boot_id,
            ready=self.ready,
            ladder=self.metrics.ladder,
            variants=tuple(v.name for v in profile.variants) if profile else (),
            policy=service.scheduler.controller.policy.name if service else "",
            max_message_bytes=self.max_message_bytes,
            waiting=waiting,
        )
        self._send(client, protocol.encode(protocol.OK, header))

    # ---------------------------------------------------------------------------- the worker

    def _on_worker_message(self, kind: bytes, header: bytes, tensor: list[Any]) -> None:
        self.watchdog.heard()
        if kind == worker.DONE and self.service is not None:
            self.service.on_done(protocol.decode(worker.Done, header), tensor)
        elif kind == worker.UP:
            self._on_up(protocol.decode(worker.Up, header))
        elif kind == worker.FATAL:
            fatal = protocol.decode(worker.Fatal, header)
            self._give_up(StartupError(fatal.message, help=fatal.help))
        elif kind == worker.PROGRESS:
            progress = protocol.decode(worker.Progress, header)
            log.debug("%s (%d of %d)", progress.what, progress.done, progress.total)
            self.notifier.tell(EXTEND_TIMEOUT_USEC=PATIENCE_S * 1_000_000, STATUS=progress.what)
        elif self.service is not None and kind == worker.KEPT:
            self.service.on_kept(protocol.decode(worker.Kept, header).resident)
        elif self.service is not None and kind == worker.LOADED:
            loaded = protocol.decode(worker.Loaded, header)
            self.service.on_kept(loaded.resident)
            self.service.residency.on_loaded(loaded)
        elif self.service is not None and kind == worker.FAILED:
            self.service.on_failed(protocol.decode(worker.Failed, header))

    def _on_up(self, up: worker.Up) -> None:
        """A worker is warm: the first time, its profile makes the service."""
        self._worker_takes_s = self.loop.time() - self._worker_began_s
        if self.service is None:
            try:
                self.service = self._make_service(up.profile)
            except (AdaphiError, ValueError) as error:
                self._give_up(StartupError(str(error)))
                return
            # What exists now is there to stay: the collector need not look through it again.
            gc.collect()
            gc.freeze()
        self.service.on_up(up.resident)
        controller = self.service.scheduler.controller
        log.info("ready after %.1f s: %r", self._worker_takes_s, controller)
        self.notifier.tell(READY=1, STATUS=f"serving {self.metrics.ladder}")

    def _make_service(self, profile: Profile) -> Service:
        config = self.config
        policy = chooser(config, profile)(self.policies.first())
        self.profile = profile
        self.supervisor.orders = self._orders()  # a successor need not measure again
        service = Service(config, profile, policy, self.sensors, self.metrics, self.supervisor)
        if config.recorder.folder is not None:
            service.flight = self._make_recorder(config.recorder, profile, policy.name)
        return service

    def _make_recorder(
        self, config: Recorder, profile: Profile, policy_name: str
    ) -> FlightRecorder:
        header = flight.Header(
            boot_id=self.boot_id,
            ladder=profile.ladder,
            ladder_fingerprint=profile.ladder_fingerprint,
            policy=policy_name,
            variants=tuple(v.name for v in profile.variants),
            typical_ms=tuple(profile.typical_ms(self.config.latency)),
        )
        assert config.folder is not None
        return FlightRecorder(config.folder, header, limit_bytes=int(config.limit_mb * 1e6))

    def _on_worker_loss(self, reason: str) -> None:
        self._worker_began_s = self.loop.time()
        if self.service is None:
            self._give_up(StartupError(f"the worker ended before it was warm ({reason})"))
            return
        if not self.draining:
            log.warning("worker lost (%s)", reason)
        self.service.on_worker_lost(reason, self._worker_began_s + self._worker_takes_s)

    def _orders(self) -> worker.Orders:
        config, profile = self.config.worker, self.profile
        return worker.Orders(
            ladder=profile.ladder if profile else self.config.ladder,
            quality=tuple(v.quality for v in profile.variants) if profile else None,
            profile=profile,
            backend=config.backend,
            threads=config.threads,
            memory_limit_bytes=config.memory_limit_bytes,
            profile_rounds=config.profile_rounds,
        )

    def _give_up(self, error: StartupError) -> None:
        if self.service is not None:
            log.error("the worker cannot start: %s", error)
            return
        self._failed = self._failed or error
        self.stopping.set()

    # ---------------------------------------------------------------------------- small parts

    def _token(self) -> bytes | None:
        """Return what HTTP asks for, None where it asks for nothing."""
        file = self.config.http.token_file
        return None if file is None else load_token(Path(file))

    def status(self) -> dict[str, object]:
        """Return the daemon's state in a few words and numbers."""
        state: dict[str, object] = {
            "version": __version__,
            "boot_id": self.boot_id,
            "ready": self.ready,
            "draining": self.draining,
            "ladder": self.metrics.ladder,
            "worker_pid": self.supervisor.pid,
            "worker_restarts": self.supervisor.restarts,
        }
        if (service := self.service) is not None:
            limits, controller = service.limits, service.scheduler.controller
            state |= {
                "policy": controller.policy.name,
                "certificate": controller.certificate,
                "rollout": service.rollout.state,
                "active": controller.active,
                "resident": sorted(service.resident),
                "waiting": len(service.scheduler),
                "slowdown": round(limits.slowdown, 3),
                "budget_ms": limits.budget_ms,
                "max_phi": limits.max_phi,
                "minute": service.books.history.summary(),
            }
        return state

    def status_with_history(self) -> dict[str, object]:
        """Return `status`, the names of the variants, and the last minutes second by second."""
        if self.service is None or self.profile is None:
            return self.status()
        seconds = self.service.books.history.seconds
        return self.status() | {
            "variants": [v.name for v in self.profile.variants],
            "history": {name: [getattr(s, name) for s in seconds] for name in Second._fields},
        }

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT; a second one does not wait for anything."""

        def stop() -> None:
            if self.stopping.is_set():
                self.supervisor.kill("stopped twice")
                os._exit(130)
            log.info("stopping")
            self.stopping.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, stop)
        self.loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                self.loop.remove_signal_handler(number)


@contextmanager
def _own(address: str) -> Iterator[None]:
    """Hold an ipc address for this daemon alone: ZeroMQ itself would let a second one take it over."""
    if not address.startswith("ipc://"):
        yield
        return
    path = Path(address.removeprefix("ipc://"))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(path.parent)
        beside = path.with_name(path.name + ".lock")
        # Nothing is truncated, and no link followed: others may write where an address lies.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        lock = os.fdopen(os.open(beside, flags, 0o600), "w")
    except OSError as error:
        raise StartupError(
            f"cannot listen on {address}: {error.filename}: {error.strerror}",
            help="choose another address in [zmq] bind",
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StartupError(
                f"another daemon is listening on {address}",
                help="stop it, or choose another address in [zmq] bind",
            ) from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _id_of(message: list[Any]) -> int | None:
    """Return the id in a message that was refused, if it can still be read."""
    if len(message) < 3 or len(message[2]) > protocol.MAX_HEADER_BYTES:
        return None
    try:
        return protocol.decode(IdHeader, bytes(message[2])).id
    except RequestError:
        return None
