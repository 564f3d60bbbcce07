"""Policy files: arrays and a JSON text in one `.npz`, with a digest, whole or not at all.

The digest is SHA-256 over the arrays and the rest of the text. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import PolicyError

SCHEMA = 1
_MAX_FILE_BYTES = 256 * 1024 * 1024
_MAX_INFLATED_BYTES = 64 * 1024 * 1024
_MAGIC = b"PK"  # a zip file, as numpy packs arrays

Arrays = dict[str, NDArray[Any]]
T = TypeVar("T")


def pack(arrays: Arrays, meta: dict[str, Any]) -> bytes:
    """Return a policy file's content; schema and digest are added to `meta`."""
    meta = {"schema": SCHEMA, **meta}
    meta["digest"] = _digest(arrays, meta)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, meta=np.array(json.dumps(meta)), **arrays)
    return buffer.getvalue()


def unpack(content: bytes) -> tuple[Arrays, dict[str, Any]]:
    """Return what was packed, less schema and digest; raise `PolicyError` if it is not what it was."""
    if not content.startswith(_MAGIC):
        raise PolicyError("not a policy file", help="`adaphi solve` writes one")
    with whole(), np.load(io.BytesIO(content), allow_pickle=False) as file:
        # Nothing is inflated yet, and then no further than an entry says that it goes.
        if sum(entry.file_size for entry in file.zip.infolist()) > _MAX_INFLATED_BYTES:
            raise PolicyError(f"larger than {_MAX_INFLATED_BYTES >> 20} MiB, which no policy is")
        arrays: Arrays = {name: file[name] for name in file.files}
        meta: dict[str, Any] = json.loads(str(arrays.pop("meta")))
        if meta["schema"] != SCHEMA:
            raise PolicyError(
                f"policy schema {meta['schema']} is not known; this version reads {SCHEMA}"
            )
        if meta.pop("digest") != _digest(arrays, meta):
            raise PolicyError("the digest does not match: the policy was damaged or changed")
    del meta["schema"]
    return arrays, meta


def write(path: str | Path, content: bytes) -> None:
    """Write a policy to `path`, whole or not at all; what is no file, such as a device, is written into."""
    path = Path(path)
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve()  # a link stays one
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def read(path: str | Path, parse: Callable[[bytes], T]) -> T:
    """Return what `parse` makes of a file's content; its `PolicyError` names the file."""
    try:
        if Path(path).stat().st_size > _MAX_FILE_BYTES:
            raise PolicyError(f"{path}: larger than any policy file")
        return parse(Path(path).read_bytes())
    except OSError as error:
        raise PolicyError(f"{path}: {error.strerror}") from None
    except PolicyError as error:
        raise PolicyError(f"{path}: {error.message}", help=error.help) from None


@contextmanager
def whole() -> Iterator[None]:
    """Turn whatever a damaged file raises into a `PolicyError`."""
    try:
        yield
    except PolicyError:
        raise
    except Exception as error:  # zipfile, zlib, lzma, numpy and json have errors of their own
        why = str(error).partition("\n")[0][:120] or type(error).__name__
        raise PolicyError(f"not a whole policy file ({why})") from None


def _digest(arrays: Arrays, meta: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
