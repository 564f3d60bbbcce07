"""The Open Inference Protocol v2 over HTTP: which path does what. The bytes are `oip`'s business.

The ladder is one model and its variants are its versions; each variant is a model of its own as well, for
clients that name no version. Naming a variant pins it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .. import __version__
from ..config import Config
from ..errors import InvalidRequest, RequestError
from ..model_zoo.choosing import AUTO
from ..model_zoo.images import check_image
from ..model_zoo.profile import Profile
from . import oip, protocol
from .body import Room, Take, read_body
from .metrics import Metrics
from .protocol import AnswerHeader, InferHeader
from .service import Service, Ticket
from .statistics import Tally

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
HEADER_LENGTH = "Inference-Header-Content-Length"
SLOW_JSON_BYTES = 256 * 1024
"""A body whose tensors are JSON is read in a thread from this size on: it takes milliseconds."""
MAX_ORDER_BYTES = 64 * 1024
"""What the body of a request to the repository may have."""


class Host(Protocol):
    """What the routes need of the daemon."""

    config: Config
    metrics: Metrics
    profile: Profile | None
    max_message_bytes: int

    @property
    def ready(self) -> bool:
        """Say whether requests are being served."""
        ...

    def serving(self) -> Service:
        """Return what serves requests; raise the `RequestError` that says why nothing does."""
        ...


class OpenInference:
    """The protocol's endpoints on top of one daemon."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._room = Room(4 * host.max_message_bytes)

    def routes(self) -> list[Route]:
        """Return the routes, all below /v2."""
        routes = [
            Route("/v2", self.server),
            Route("/v2/", self.server),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.server_ready),
            Route("/v2/models/stats", self.statistics),
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self.load, methods=["POST"]),
            Route("/v2/repository/models/{model}/unload", self.unload, methods=["POST"]),
        ]
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route(path, self.metadata),
                Route(path + "/ready", self.model_ready),
                Route(path + "/config", self.configuration),
                Route(path + "/stats", self.statistics),
                Route(path + "/infer", self.infer, methods=["POST"]),
            ]
        return routes

    # ---------------------------------------------------------------------------- who is there

    async def live(self, _: Request) -> Response:
        """Say that the process answers."""
        return Response()

    async def server_ready(self, _: Request) -> Response:
        """Say whether requests are being served."""
        if not self._host.ready:
            raise HTTPException(503, "the models are not warm")
        return Response()

    async def server(self, _: Request) -> Response:
        """Describe the server."""
        return JSONResponse(
            {"name": "adaphi", "version": __version__, "extensions": list(EXTENSIONS)}
        )

    async def model_ready(self, request: Request) -> Response:
        """Say whether a model answers: the ladder, or a variant that is resident."""
        phi = self._find(request)
        if not self._host.ready:
            raise HTTPException(503, "the models are not warm")
        if phi is not None and (reason := self._not_ready_because(phi)):
            raise HTTPException(503, reason)
        return Response()

    async def metadata(self, request: Request) -> Response:
        """Describe a model: versions, the input and the output."""
        phi = self._find(request)
        names = self._names if phi is None else [self._names[phi]]
        return JSONResponse(
            {
                "name": request.path_params["model"],
                "versions": names,
                "platform": self._platform,
                "inputs": [{"name": oip.INPUT, "datatype": "UINT8", "shape": [-1, -1, 3]}],
                "outputs": [{"name": oip.OUTPUT, "datatype": "FP32", "shape": [-1]}],
            }
        )

    async def configuration(self, request: Request) -> Response:
        """Return what Triton calls the model configuration."""
        self._find(request)
        image = {"name": oip.INPUT, "data_type": "TYPE_UINT8", "dims": [-1, -1, 3]}
        logits = {"name": oip.OUTPUT, "data_type": "TYPE_FP32", "dims": [-1]}
        return JSONResponse(
            {
                "name": request.path_params["model"],
                "platform": self._platform,
                "backend": self._backend,
                "version_policy": {"all": {}},
                "max_batch_size": 0,
                "input": [image],
                "output": [logits],
            }
        )

    async def statistics(self, request: Request) -> Response:
        """Return what each variant did: one entry for each."""
        phi = self._find(request) if "model" in request.path_params else None
        tallies = self._host.serving().books.tallies
        chosen = range(len(tallies)) if phi is None else [phi]
        return JSONResponse({"model_stats": [self._tally(p, tallies[p]) for p in chosen]})

    # ---------------------------------------------------------------------------- the repository

    async def index(self, request: Request) -> Response:
        """List the variants: resident or not, and why not."""
        wanted = await self._order(request)
        rows = []
        for phi, name in enumerate(self._names):
            reason = self._not_ready_because(phi)
            state = "UNAVAILABLE" if reason else "READY"
            if not reason or not wanted.ready:
                rows.append(
                    {"name": self._model, "version": name, "state": state, "reason": reason}
                )
        return JSONResponse(rows)

    async def load(self, request: Request) -> Response:
        """Make a variant resident and put it into service; for the ladder, all of them."""
        phi = self._find(request)
        if (await self._order(request)).parameters:
            raise InvalidRequest("a variant cannot be loaded with another configuration or files")
        residency = self._host.serving().residency
        for each in range(len(self._names)) if phi is None else [phi]:
            await residency.load(each)
        return Response()

    async def unload(self, request: Request) -> Response:
        """Take a variant out of service and give its memory back."""
        phi = self._find(request)
        await self._order(request)
        if phi is None:
            raise InvalidRequest(f"name the variant to unload: {', '.join(self._names)}")
        self._host.serving().residency.unload(phi)
        return Response()

    async def _order(self, request: Request) -> oip.RepositoryBody:
        body = await read_body(request, MAX_ORDER_BYTES)
        return oip.decode(oip.RepositoryBody, bytes(body) or b"{}")

    # ---------------------------------------------------------------------------- inference

    async def infer(self, request: Request) -> Response:
        """Answer one image; a client that goes away takes its request with it."""
        with self._room.visit() as take:
            return await self._infer(request, take)

    async def _infer(self, request: Request, take: Take) -> Response:
        arrived_s = asyncio.get_running_loop().time()
        phi = self._find(request)
        future: asyncio.Future[tuple[Any, Any]] = asyncio.get_running_loop().create_future()
        ticket = Ticket(0, lambda what, rest: future.set_result((what, rest)))
        try:
            body = await read_body(request, self._host.max_message_bytes, take)
            asked = await self._read(body, request.headers.get(HEADER_LENGTH))
            service = self._host.serving()
            header = self._header(asked, phi)
            service.submit(ticket, header, asked.image, arrived_s)
        except RequestError as error:
            self._host.metrics.count_refusal(error.code)
            raise
        try:
            what, rest = await _unless_gone(request, future)
        finally:
            if not future.done():
                service.cancel(ticket)
        if isinstance(what, RequestError):
            raise what
        return self._answer(asked, service.profile.variants[what.phi].quality, what, rest)

    async def _read(self, body: bytearray, header_length: str | None) -> oip.Asked:
        if header_length is None and len(body) > SLOW_JSON_BYTES:
            asked = await asyncio.to_thread(oip.read, body, header_length)
        else:
            asked = oip.read(body, header_length)
        check_image(asked.image)
        return asked

    def _header(self, asked: oip.Asked, phi: int | None) -> InferHeader:
        parameters, image = asked.parameters, asked.image
        if parameters.variant is not None:
            pinned = self._phi_of(parameters.variant)
            if phi is not None and pinned != phi:
                raise InvalidRequest(
                    f"the path names {self._names[phi]}, the parameter variant {parameters.variant!r}"
                )
            phi = pinned
        header = InferHeader(
            id=0,
            dtype=image.dtype.name,
            shape=image.shape,
            deadline_ms=parameters.budget_ms,
            reading_ms=parameters.reading_ms,
            phi=phi,
            top=asked.classes,
            priority=parameters.priority,
            min_quality=parameters.min_quality,
            blur_px=parameters.blur_px,
        )
        protocol.check_numbers(header)
        return header

    def _answer(
        self, asked: oip.Asked, quality: float, header: AnswerHeader, rest: Any
    ) -> Response:
        output = protocol.tensor_of(header, rest)
        text, raw = oip.answer(asked, self._model, quality, header, output)
        if not asked.binary:
            return Response(text, media_type="application/json")
        return Response(
            text + raw,
            media_type="application/octet-stream",
            headers={HEADER_LENGTH: str(len(text))},
        )

    # ---------------------------------------------------------------------------- small parts

    @property
    def _model(self) -> str:
        return oip.path_name(self._host.metrics.ladder)

    @property
    def _names(self) -> list[str]:
        """Return the variants' names; none while the ladder's profile is still being measured."""
        profile = self._host.profile
        return [oip.path_name(v.name) for v in profile.variants] if profile else []

    @property
    def _platform(self) -> str:
        return f"adaphi_{self._backend}"

    @property
    def _backend(self) -> str:
        """Return what runs the models: as configured, else what the profile was measured with."""
        named, profile = self._host.config.worker.backend, self._host.profile
        if named in (None, AUTO) and profile is not None:
            return profile.backend
        return named or "torch"

    def _find(self, request: Request) -> int | None:
        """Return the φ that a path names, None for the whole ladder; raise 404 for anything else."""
        model, version = request.path_params["model"], request.path_params.get("version")
        if model == self._model and version is None:
            return None
        names = self._names
        name = model if version is None else version
        if name not in names or model not in (self._model, name):
            what = model if version is None else f"{model}, version {version}"
            known = ", ".join([self._model, *names])
            raise HTTPException(404, f"unknown model: {what[:100]}; known are {known}")
        return names.index(name)

    def _phi_of(self, variant: str | int) -> int:
        if isinstance(variant, int):
            return variant
        if variant not in self._names:
            known = ", ".join(self._names)
            raise InvalidRequest(f"no variant is called {variant[:100]!r}; there are {known}")
        return self._names.index(variant)

    def _not_ready_because(self, phi: int) -> str:
        if not self._host.ready:
            return "the models are not warm"
        service = self._host.serving()
        if phi in service.residency.unloaded:
            return "unloaded"
        return "" if phi in service.resident else "not resident: loaded when a request needs it"

    def _tally(self, phi: int, tally: Tally) -> dict[str, Any]:
        """Return Triton's statistics of one variant; its preprocessing counts as inference."""

        def duration(count: int, ns: int) -> dict[str, int]:
            return {"count": count, "ns": ns}

        none = duration(0, 0)
        infer = duration(tally.done, tally.inference_ns)
        return {
            "name": self._model,
            "version": self._names[phi],
            "last_inference": tally.last_ms,
            "inference_count": tally.done,
            "execution_count": sum(count for count, _ in tally.runs.values()),
            "inference_stats": {
                "success": duration(tally.done, tally.total_ns),
                "fail": duration(tally.failed, tally.failed_ns),
                "queue": duration(tally.done, tally.queue_ns),
                "compute_input": none,
                "compute_infer": infer,
                "compute_output": none,
                "cache_hit": none,
                "cache_miss": none,
            },
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": none,
                    "compute_infer": duration(*run),
                    "compute_output": none,
                }
                for size, run in sorted(tally.runs.items())
            ],
        }


async def _unless_gone(request: Request, future: asyncio.Future[Any]) -> Any:
    """Return the future's result; raise `ClientDisconnect` as soon as the client is gone."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({future, watch}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watch.cancel()
    if not future.done():
        raise ClientDisconnect
    return future.result()
