"""The Open Inference Protocol v2 over HTTP: which path does what. The bytes are `oip`'s business.

The ladder is one model and its variants are its versions; each variant is a model of its own as well, for
clients that name no version. Naming a variant pins it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .. import __version__
from ..errors import InvalidRequest, RequestError
from ..model_zoo.choosing import AUTO
from . import oip
from .body import Visit, read_body
from .inference import HEADER_LENGTH, SLOW_JSON_BYTES, Inference, Sent
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
MAX_ORDER_BYTES = 64 * 1024
"""What the body of a request to the repository may have."""


class OpenInference:
    """The protocol's endpoints on top of one daemon."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._host = inference.host
        self._one_long_json = asyncio.Lock()

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
                "inputs": [self._inference.takes.metadata],
                "outputs": [self._inference.gives.metadata],
            }
        )

    async def configuration(self, request: Request) -> Response:
        """Return what Triton calls the model configuration."""
        self._find(request)
        return JSONResponse(
            {
                "name": request.path_params["model"],
                "platform": self._platform,
                "backend": self._backend,
                "version_policy": {"all": {}},
                "max_batch_size": 0,
                "input": [self._inference.takes.configuration],
                "output": [self._inference.gives.configuration],
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
        """Answer one request; a client that goes away takes it along."""
        with self._inference.room.visit() as visit:
            return await self._infer(request, visit)

    async def _infer(self, request: Request, visit: Visit) -> Response:
        arrived_s = asyncio.get_running_loop().time()
        phi = self._find(request)
        future: asyncio.Future[Sent] = asyncio.get_running_loop().create_future()
        try:
            body = await read_body(request, self._host.max_message_bytes, visit.take)
            asked = await self._read(body, request.headers.get(HEADER_LENGTH))
            cancel = self._inference.submit(asked, phi, arrived_s, future.set_result)
        except RequestError as error:
            self._host.metrics.count_refusal(error.code)
            raise
        try:
            sent = await _unless_gone(request, future)
        finally:
            if not future.done():
                cancel()
        return Response(sent.body, sent.status, sent.headers)

    async def _read(self, body: bytearray, header_length: str | None) -> oip.Asked:
        name = self._inference.takes.name
        if header_length is None and len(body) > SLOW_JSON_BYTES:
            async with self._one_long_json:  # as numbers it takes thirty times what it has as text
                return await asyncio.to_thread(oip.read, body, header_length, name)
        return oip.read(body, header_length, name)

    # ---------------------------------------------------------------------------- small parts

    @property
    def _model(self) -> str:
        return self._inference.model

    @property
    def _names(self) -> list[str]:
        return self._inference.names

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
