"""Commands that run on a device: profile, serve, infer, record, demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import show
from .options import Address, Backend, Json, KeyFile, Ladder, ServerKey, Threads, numbers, writable

if TYPE_CHECKING:
    from ..controller.protocol import Answer


def profile(
    ladder: Ladder = "efficientnet-lite",
    backend: Backend = "torch",
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Where to write it.", callback=writable)
    ] = Path("profile.json"),
    quality: Annotated[
        str | None, typer.Option(help="Quality of each variant; needed for timm: ladders.")
    ] = None,
    untrained: Annotated[
        bool, typer.Option(help="Random weights: the same cost, useless answers.")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(help="A folder of pictures for int8 variants. [installed photographs]"),
    ] = None,
    threads: Threads = 1,
    rounds: Annotated[int, typer.Option(min=1, help="More rounds, steadier figures.")] = 30,
    batch: Annotated[
        bool,
        typer.Option("--batch", help="Measure batches of 2, 4 and 8 too: takes twice as long."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure what a ladder costs on this machine.

    Latency, memory, stalls and energy; leave the machine alone meanwhile. What cannot be measured
    here (mostly energy) is null. With --backend auto every installed backend runs the ladder first,
    and the fastest whose answers equal torch's is taken. Of a mixed ladder every candidate is measured, and
    what a quicker one equals in quality is dropped. With --batch it is measured what several requests at once
    take (in torch and in code of your own; exports take one at a time): where that pays, a daemon with this
    profile answers requests that wait together.

    \b
    Examples:
      adaphi profile -o profile.json
      adaphi profile --backend auto -o profile.json
      adaphi profile --ladder python:networks:ladder --batch
      adaphi profile --ladder efficientnet-lite-mixed --backend auto
      adaphi profile --ladder timm:resnet18,resnet50 --quality 0.70,0.80 --rounds 10
    """
    from itertools import chain

    from ..model_zoo.backends import get_backend
    from ..model_zoo.choosing import settle_backend
    from ..model_zoo.ladders import get_ladder
    from ..model_zoo.profiling import measure

    pictures = "" if calibration is None else str(calibration.resolve())
    chosen = get_ladder(
        ladder,
        quality=numbers(quality, "--quality"),
        untrained=untrained,
        calibration=pictures,
    )
    with show.progress() as tell:
        backend, compared = settle_backend(backend, chosen, None, threads=threads, progress=tell)
        tell(0, 1, f"importing {backend}")
        runs = get_backend(backend, threads=threads)
        from ..model_zoo.allocator import tune_allocator
        from ..model_zoo.pool import WarmPool

        tune_allocator()
        pool = WarmPool(chosen, runs)
        measured = measure(
            pool,
            rounds=rounds,
            batch_rounds=max(5, rounds // 3) if batch else 0,
            conditions={"threads": threads, **({"calibration": pictures} if pictures else {})},
            compared=compared,
            progress=tell,
        )
    measured.save(output)
    if as_json:
        typer.echo(measured.to_json(), nl=False)
        return
    for trial in compared:
        typer.echo(f"{'→' if trial.backend == backend else ' '} {trial}")
    show.print_table(show.profile_table(measured))
    lines = (show.candidate_lines, show.stall_lines, show.batch_lines)
    for line in chain.from_iterable(tell_of(measured) for tell_of in lines):
        typer.echo(line)
    typer.echo(f"written to {output}")


def serve(
    config: Annotated[
        Path | None,
        typer.Option("--config", help="A TOML file; all keys and defaults: deploy/adaphi.toml."),
    ] = None,
) -> None:
    """Run the daemon until SIGTERM or Ctrl-C.

    What was accepted until then is answered first. SIGHUP reads the configuration again; a policy file that
    changes is tried in the shadow, and takes over if its promise holds.

    \b
    Examples:
      adaphi serve
      adaphi serve --config adaphi.toml
    """
    import asyncio
    import logging

    from ..config import load_config
    from ..controller.daemon import Daemon
    from ..model_zoo.allocator import tune_allocator

    tune_allocator()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    asyncio.run(Daemon(load_config(config), lambda: load_config(config)).serve())


_URL = "give where its metrics are, as in --url http://127.0.0.1:8757"


def status(
    url: Annotated[
        str, typer.Option(help="Where the daemon's metrics and page are.")
    ] = "http://127.0.0.1:8757",
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", envvar="ADAPHI_TOKEN_FILE", help="Where the daemon asks for a token."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how a running daemon is: what it can spend, who answers, what was late in the last minute.

    \b
    Examples:
      adaphi status
      adaphi status --url http://127.0.0.1:8757 --json
      adaphi status --url http://10.0.0.5:8757 --token-file token
    """
    import json
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from ..controller.security import load_token
    from ..errors import InputError

    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url!r} is no URL", help=_URL)
    token = None if token_file is None else load_token(token_file).decode()
    try:
        request = Request(url.rstrip("/") + "/status")
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        with urlopen(request, timeout=5) as answer:
            state = json.load(answer)
        if not isinstance(state, dict) or "worker_restarts" not in state:
            raise ValueError("no daemon's state")
    except HTTPError as error:
        if error.code != 401:
            raise InputError(
                f"{url} answers, but not as a daemon does: {error}", help=_URL
            ) from None
        if token_file is None:
            raise InputError(
                f"{url} asks for its token", help="name its file: --token-file"
            ) from None
        raise InputError(
            f"{url} does not take the token in {token_file}", help="it is another daemon's"
        ) from None
    except (ValueError, HTTPException):
        raise InputError(f"{url} answers, but not as a daemon does", help=_URL) from None
    except OSError as error:
        why = getattr(error, "reason", error)
        raise InputError(
            f"no daemon answered at {url}: {getattr(why, 'strerror', None) or why}",
            help="start one with `adaphi serve`, or name its address with --url",
        ) from None
    if as_json:
        show.print_json(state)
    else:
        show.print_table(show.status_table(state))


def push(
    policy: Annotated[Path, typer.Argument(help="A policy.npz; its signature lies beside it.")],
    address: Address = None,
    server_key: ServerKey = None,
    key_file: KeyFile = None,
) -> None:
    """Offer a running daemon a new policy.

    It is checked, decides in the shadow, and takes over between two requests if its promise holds there;
    should its certificate break soon after, the policy before it comes back.

    \b
    Example:
      adaphi push policy.npz
    """
    from ..controller.client import Client
    from ..controller.policy_file import signature_path
    from ..errors import InputError, InvalidRequest

    try:
        content = policy.read_bytes()
        signature = signature_path(policy)
        signed = signature.read_bytes() if signature.exists() else None
    except OSError as error:
        raise InputError(f"{policy}: {error.strerror}") from None
    with Client(address, server_key=server_key, key_file=key_file) as client:
        try:
            client.push_policy(content, signed)
        except InvalidRequest as error:
            raise InputError(f"{policy}: {error.message}", help=error.help) from None
    typer.echo(f"{policy}: taken, and now in the shadow")


def infer(
    image: Annotated[Path, typer.Argument(help="A picture that PIL can read.")],
    deadline_ms: Annotated[
        float | None, typer.Option(help="Time for the answer. [the daemon's default]")
    ] = None,
    phi: Annotated[int | None, typer.Option(help="Use this variant, whatever the budget.")] = None,
    top: Annotated[int, typer.Option(min=0, help="How many classes to print.")] = 3,
    address: Address = None,
    server_key: ServerKey = None,
    key_file: KeyFile = None,
    local: Annotated[
        bool, typer.Option(help="Ask no daemon: load the default ladder in this process.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask the daemon what is in a picture.

    Prints the likeliest classes, the variant that answered, the time, and whether it was late.

    \b
    Examples:
      adaphi infer cat.jpg --deadline-ms 30
      adaphi infer cat.jpg --local
    """
    if local:
        answer = _infer_here(image, deadline_ms, phi, top, address)
    else:
        from ..controller.client import Client

        with Client(address, server_key=server_key, key_file=key_file) as client:
            answer = client.infer(image, deadline_ms=deadline_ms, phi=phi, top=top)
    if as_json:
        show.print_json(
            {
                "top": [{"class": name, "probability": p} for name, p in answer.top],
                "phi": answer.phi,
                "variant": answer.name,
                "latency_ms": answer.latency_ms,
                "queue_ms": answer.queue_ms,
                "inference_ms": answer.inference_ms,
                "late": answer.late,
            }
        )
        return
    for name, probability in answer.top:
        typer.echo(f"{probability:6.1%}  {name}")
    verdict = "late" if answer.late else "on time"
    typer.echo(f"φ{answer.phi} {answer.name}, {answer.latency_ms:.1f} ms, {verdict}")


def _infer_here(
    image: Path, deadline_ms: float | None, phi: int | None, top: int, address: str | None
) -> Answer:
    from ..controller.embedded import AdaptiveModel
    from ..errors import InputError

    if address is not None:
        raise InputError("--local asks no daemon", help="leave out --address")
    policy = None if phi is None else f"static:{phi}"
    model = AdaptiveModel.from_ladder(policy=policy)
    return model(image, deadline_ms=100.0 if deadline_ms is None else deadline_ms, top=top)


def record(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The budget trace to write.", callback=writable)
    ],
    frame_ms: Annotated[
        float, typer.Option(min=0.001, help="The budget of a frame on an idle device.")
    ] = 50.0,
    interval_ms: Annotated[float, typer.Option(min=1.0, help="Time between rows.")] = 100.0,
    seconds: Annotated[float | None, typer.Option(min=0.0, help="How long. [until Ctrl-C]")] = None,
) -> None:
    """Record what this device can spend as a budget trace.

    Runs until Ctrl-C, or for --seconds. Each row's budget is --frame-ms divided by the slow-down
    that the load of the processor means.

    \b
    Example:
      adaphi record -o monday.csv --frame-ms 40 --seconds 3600
    """
    from rich.console import Console

    from ..controller.recorder import record as run
    from ..controller.recorder import rows

    console = Console(stderr=True)
    written = 0
    status: Any = console.status("recording") if console.is_terminal else None
    try:
        if status is not None:
            status.start()
        for row in run(output, rows(frame_ms, interval_ms / 1e3, seconds)):
            written += 1
            if status is not None:
                status.update(
                    f"{row.time_s:.0f} s, budget {row.budget_ms:.1f} ms "
                    f"(slow-down {row.slowdown:.2f}); Ctrl-C ends"
                )
    except KeyboardInterrupt:
        if seconds is not None:
            raise
    finally:
        if status is not None:
            status.stop()
    typer.echo(f"{output}: {written} rows")


def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="A shorter recording and fewer photographs.")
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(min=2.0, help="How long to record. [63, with --quick 18]"),
    ] = None,
) -> None:
    """Run the main job, everything real, in three minutes.

    \b
    It profiles the default ladder, records a budget trace while a load comes and goes, solves the
    policy on the first half, compares it with every rule on the second, starts the daemon, sends
    photographs with deadlines from the trace, and prints predicted beside measured.

    \b
    Example:
      adaphi demo
    """
    from .demo import run

    run(quick=quick, seconds=seconds)
