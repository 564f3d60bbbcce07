"""adaphi: the best model the device can afford, request by request.

    from adaphi import AdaptiveModel, Client

`AdaptiveModel` runs a ladder inside this process; `Client` asks a running daemon. Both are loaded
when first used, so that `import adaphi` brings neither torch nor zmq.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .controller.client import AsyncClient, Client
    from .controller.embedded import AdaptiveModel
    from .controller.protocol import Answer
    from .errors import AdaphiError

__version__ = "0.1.0"

__all__ = ["AdaphiError", "AdaptiveModel", "Answer", "AsyncClient", "Client", "__version__"]

_HOME = {
    "AdaphiError": ".errors",
    "AdaptiveModel": ".controller.embedded",
    "Answer": ".controller.protocol",
    "AsyncClient": ".controller.client",
    "Client": ".controller.client",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
