"""The peers that serving is measured beside, each a process: `python -m benchmarks.servers KIND WHAT PORT`.

All get the bytes of a picture and answer with the milliseconds that the handler took (float64) and the bytes
of its output. `KIND` is zmq (pyzmq's ROUTER and nothing else) or fastapi (with uvicorn); `WHAT` is echo, tiny
or model. mosec, which starts its workers anew, and the floor have modules of their own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache

import numpy as np
import zmq

from adaphi.model_zoo import get_ladder
from adaphi.model_zoo.allocator import tune_allocator
from adaphi.model_zoo.backends import Array, get_backend
from adaphi.model_zoo.images import example_image

from .echo import echo

PICTURES = {
    "echo": example_image(448, 448),  # 602 KB, as a float32 tensor of 1 × 3 × 224 × 224 has
    "tiny": example_image(18, 19),
    "model": example_image(448, 448),
}


@cache
def handler_of(what: str) -> Callable[[Array], Array]:
    """Return what answers: the echo, or lite0 as the worker runs it, preprocessing included."""
    if what != "model":
        return echo
    backend = get_backend("torch")
    backend.prepare()
    return backend.build(get_ladder("efficientnet-lite").variants[0])


def timed(what: str) -> Callable[[bytes | memoryview], tuple[bytes, bytes]]:
    """Return the handler on bytes: (milliseconds as float64, output)."""
    handler, shape = handler_of(what), PICTURES[what].shape

    def handle(body: bytes | memoryview) -> tuple[bytes, bytes]:
        began = time.perf_counter()
        output = handler(np.frombuffer(body, np.uint8).reshape(shape))
        took_ms = (time.perf_counter() - began) * 1e3
        return np.float64(took_ms).tobytes(), output.tobytes()

    return handle


def serve_zmq(what: str, port: int) -> None:
    """Answer in the thread that reads a ROUTER."""
    router = zmq.Context.instance().socket(zmq.ROUTER)
    router.bind(f"tcp://127.0.0.1:{port}")
    handle = timed(what)
    while True:
        client, empty, body = router.recv_multipart(copy=False)
        router.send_multipart([client, empty, *handle(body.buffer)])


def serve_fastapi(what: str, port: int) -> None:
    """Answer an echo in the loop, a model in FastAPI's pool of threads, as its users would."""
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from fastapi.concurrency import run_in_threadpool

    app, handle = FastAPI(), timed(what)

    async def inference(request):  # type: ignore[no-untyped-def]  # FastAPI reads annotations at run time
        body = await request.body()
        took, output = await run_in_threadpool(handle, body) if what == "model" else handle(body)
        return Response(took + output, media_type="application/octet-stream")

    inference.__annotations__ = {"request": Request}
    app.post("/inference")(inference)
    uvicorn.run(app, port=port, log_level="warning", access_log=False)


SERVERS = {"zmq": serve_zmq, "fastapi": serve_fastapi}

if __name__ == "__main__":
    tune_allocator()
    SERVERS[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
