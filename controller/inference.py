"""An inference asked for over HTTP, on its way to the service and back, whichever way its bytes came."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import msgspec

from ..config import Config
from ..errors import InvalidRequest, RequestError
from ..model_zoo.images import check_image
from ..model_zoo.profile import Profile
from . import oip, protocol
from .body import Room
from .metrics import Metrics
from .protocol import AnswerHeader, InferHeader
from .service import Service, Ticket
from .zmtp import Allocate, allocate

log = logging.getLogger("adaphi")

HEADER_LENGTH = "Inference-Header-Content-Length"
SLOW_JSON_BYTES = 256 * 1024
"""A body whose tensors are JSON is read in a thread from this size on: it takes milliseconds."""
JSON = MappingProxyType({"Content-Type": "application/json"})
PATH_SAFE = ":@!$&'()*+,;="
"""What a client may leave as it is in a part of a path, or may not (RFC 3986, 3.3)."""


class Host(Protocol):
    """What inference needs of the daemon."""

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


class Sent(NamedTuple):
    """An answer as HTTP sends it, but for the headers that every answer has."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = JSON


def refusal(error: RequestError) -> Sent:
    """Return the answer that carries `error`."""
    status = oip.status_of(error)
    return failure(str(error), status, {"Retry-After": "1"} if status == 503 else {})


def failure(message: str, status: int, headers: Mapping[str, str] = MappingProxyType({})) -> Sent:
    """Return an answer that says in words what went wrong."""
    return Sent(msgspec.json.encode({"error": message}), status, {**JSON, **headers})


def internal(error: Exception) -> Sent:
    """Return the answer to whoever met an error of ours, and log it."""
    log.error("a request could not be handled", exc_info=error)
    return failure(f"internal error: {type(error).__name__}", 500)


class _Known(NamedTuple):
    """What follows from a profile."""

    profile: Profile | None
    takes: oip.Kind
    gives: oip.Kind
    targets: dict[bytes, int | None]


class Inference:
    """Requests of the inference protocol on top of one daemon; `allocate` gives the memory of long bodies."""

    def __init__(self, host: Host, allocate: Allocate = allocate) -> None:
        self.host = host
        self.allocate = allocate
        self.room = Room(4 * host.max_message_bytes)
        self._kept: _Known | None = None

    @property
    def model(self) -> str:
        """Return the ladder's name."""
        return oip.path_name(self.host.metrics.ladder)

    @property
    def names(self) -> list[str]:
        """Return the variants' names; none while the ladder's profile is still being measured."""
        profile = self.host.profile
        return [oip.path_name(v.name) for v in profile.variants] if profile else []

    @property
    def takes(self) -> oip.Kind:
        """Return what the ladder takes: what its profile was measured on, images where that does not say."""
        return self._known().takes

    @property
    def gives(self) -> oip.Kind:
        """Return what the ladder gives: what was measured then, logits of classes where that does not say."""
        return self._known().gives

    @property
    def targets(self) -> dict[bytes, int | None]:
        """Return what each path of an inference pins: a φ, or None where the policy picks."""
        return self._known().targets

    def _known(self) -> _Known:
        profile = self.host.profile
        if self._kept is None or self._kept.profile is not profile:
            self._kept = _Known(profile, *_kinds(profile), self._targets_now())
        return self._kept

    def _targets_now(self) -> dict[bytes, int | None]:
        model, names = self.model, self.names
        places: dict[tuple[str, ...], int | None] = {(model,): None}
        for phi, name in enumerate(names):
            for place in ((name,), (model, name), (name, name)):
                places.setdefault(place, phi)
        return {path: phi for place, phi in places.items() for path in _paths(place)}

    def submit(
        self,
        asked: oip.Asked,
        phi: int | None,
        arrived_s: float,
        done: Callable[[Sent], None],
    ) -> Callable[[], None]:
        """Queue what is asked, of the variant that the path pins; `done` gets the answer.

        Returns what takes the request back. Raises the `RequestError` that answers it at once.
        """
        if self.takes is oip.IMAGE:
            check_image(asked.tensor)  # of other things the worker says whether it takes them
        service = self.host.serving()

        def reply(what: AnswerHeader | RequestError, rest: list[Any]) -> None:
            try:
                sent = self._answer(asked, service.profile, what, rest)
            except Exception as error:  # a bug: the service goes on
                sent = internal(error)
            done(sent)

        ticket = Ticket(0, reply)
        service.submit(ticket, self._header(asked, phi), asked.tensor, arrived_s)
        return partial(service.cancel, ticket)

    def _answer(
        self, asked: oip.Asked, profile: Profile, what: AnswerHeader | RequestError, rest: list[Any]
    ) -> Sent:
        if isinstance(what, RequestError):
            return refusal(what)
        quality, output = profile.variants[what.phi].quality, protocol.tensor_of(what, rest)
        text, raw = oip.answer(asked, self.model, quality, what, output)
        if not asked.binary:
            return Sent(text)
        headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
        return Sent(text + raw, headers=headers)

    def _header(self, asked: oip.Asked, phi: int | None) -> InferHeader:
        parameters, tensor = asked.parameters, asked.tensor
        if parameters.variant is not None:
            pinned = self._phi_of(parameters.variant)
            if phi is not None and pinned != phi:
                raise InvalidRequest(
                    f"the path names {self.names[phi]}, the parameter variant {parameters.variant!r}"
                )
            phi = pinned
        header = InferHeader(
            id=0,
            dtype=protocol.name_of(tensor.dtype),
            shape=tensor.shape,
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

    def _phi_of(self, variant: str | int) -> int:
        if isinstance(variant, int):
            return variant
        if variant not in self.names:
            known = ", ".join(self.names)
            raise InvalidRequest(f"no variant is called {variant[:100]!r}; there are {known}")
        return self.names.index(variant)


def _kinds(profile: Profile | None) -> tuple[oip.Kind, oip.Kind]:
    """Return what the ladder of a profile takes and gives."""
    given, made = (profile.input, profile.output) if profile else (None, None)
    other = given is not None and (given[0].name != "uint8" or given[1][2:] != (3,))
    takes = oip.kind_of(oip.INPUT_NAME, *given) if given and other else oip.IMAGE
    return takes, oip.kind_of(oip.OUTPUT, *made) if made else oip.LOGITS


def _paths(place: Sequence[str]) -> set[bytes]:
    """Return the paths of a model, or of a model and its version, with its names escaped or not."""
    return {
        f"/v2/models/{'/versions/'.join(quote(part, safe) for part in place)}/infer".encode()
        for safe in ("", PATH_SAFE)
    }
