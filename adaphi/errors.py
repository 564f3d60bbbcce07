"""Every error that adaphi raises on purpose: what happened, the wire code, and what to do next.

Two families share one base. *Input errors* are raised while something is read or built (a file, a
configuration, a ladder). *Request errors* are the answers that a request can get instead of an
output; each class knows the code that travels on the wire, so the daemon encodes and the client
decodes through the same table (`from_code`).
"""

from __future__ import annotations

from typing import ClassVar


class AdaphiError(Exception):
    """Base of all errors raised on purpose; `help` says what to do next."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, help: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.help = help

    def __str__(self) -> str:
        return f"{self.message} (help: {self.help})" if self.help else self.message


# Input errors: a file, a configuration or a name could not be understood.
class InputError(AdaphiError, ValueError):
    """Raised when something given to adaphi cannot be used as it is."""

    code = "invalid_input"


class TraceError(InputError):
    """Raised when a trace cannot be read; the message names file, line and column."""


class ProfileError(InputError):
    """Raised when a profile cannot be read or does not fit together."""


class PolicyError(InputError):
    """Raised when a policy file is damaged, of another schema, or for another ladder."""


class ConfigError(InputError):
    """Raised when the configuration has an unknown key or a wrong value; the path is named."""


class LadderError(AdaphiError):
    """Raised when a ladder is unknown, or its models or weights cannot be had."""


class StartupError(AdaphiError):
    """Raised when the daemon cannot start: an address in use, a worker that does not come up."""


class MissingExtraError(AdaphiError):
    """Raised when a feature needs an optional dependency that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the extra {extra!r}", help=f"pip install 'adaphi[{extra}]'"
        )


# Request errors: the answers that a request can get instead of an output.
class RequestError(AdaphiError):
    """Base of the errors that answer a request."""

    retries: ClassVar[int] = 0
    """How often a client may ask again after this answer, if its own limit and the deadline allow."""


class InvalidRequest(RequestError, ValueError):
    """Raised when a tensor has the wrong shape or dtype, or a field has an impossible value."""

    code = "invalid_request"


class ProtocolError(RequestError):
    """Raised when a message cannot be decoded."""

    code = "protocol"


class TooLarge(RequestError):
    """Raised when a message is larger than the daemon accepts."""

    code = "too_large"


class Busy(RequestError):
    """Raised when the queue is full."""

    code = "busy"
    retries = 100


class Shed(RequestError):
    """Raised when the answer could only have been late, so no work was begun."""

    code = "shed"


class Expired(RequestError):
    """Raised when the deadline passed while the request was waiting; it never started."""

    code = "expired"


class NotReady(RequestError):
    """Raised when the models are not warm yet, or the worker is being restarted."""

    code = "not_ready"
    retries = 100


class Draining(RequestError):
    """Raised when the daemon is shutting down and accepts nothing new."""

    code = "draining"
    retries = 100


class WorkerLost(RequestError):
    """Raised when the worker died or hung while the request was running."""

    code = "worker_lost"
    retries = 1  # a picture that kills the worker must not kill all its successors


class ModelFailed(RequestError):
    """Raised when the model itself raised; the message carries its words."""

    code = "model_failed"


class NoAnswer(RequestError):
    """Raised by the client when the daemon did not answer in time, or is not there."""

    code = "no_answer"


class NotAllowed(RequestError):
    """Raised by the client when the daemon does not know its key, or is not the one it was to be."""

    code = "not_allowed"


_BY_CODE: dict[str, type[RequestError]] = {
    c.code: c
    for c in (
        InvalidRequest, ProtocolError, TooLarge, Busy, Shed, Expired,
        NotReady, Draining, WorkerLost, ModelFailed, NoAnswer, NotAllowed,
    )
}  # fmt: skip


def from_code(code: str, message: str) -> RequestError:
    """Return the request error that `code` names on the wire (the base class if unknown)."""
    return _BY_CODE.get(code, RequestError)(message)
