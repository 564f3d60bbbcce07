"""Graph networks: the laws against what runs, training on Cora, and a daemon that answers for nodes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from typer.testing import CliRunner

from adaphi import Client
from adaphi.cli.app import app
from adaphi.errors import InputError, InvalidRequest, LadderError
from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.model_zoo.profile import describe
from adaphi.model_zoo.scaling.graph import GRAPH_RULE, GraphNetwork, GraphSize, TimeLaw, largest

pytest.importorskip("torch_geometric")

from adaphi.model_zoo.scaling.citations import Citations
from adaphi.model_zoo.scaling.graph_ladder import load_saved, save_ladder, saved_ladder
from adaphi.model_zoo.scaling.graph_network import Gcn2, train
from adaphi.model_zoo.scaling.graph_trial import (
    counted_operations,
    kept_bytes,
    mean_and_half_width,
    measured_activation_bytes,
)

CORA = Path(__file__).parents[2] / "shared" / "data" / "graphs" / "cora.npz"
FOUND = Path(__file__).parents[1] / "docs" / "scaling" / "graph.json"
SIZES = (GraphNetwork(1, 8, 5), GraphNetwork(2, 16, 20))


def two_clubs(path: Path, nodes: int = 80) -> Path:
    """Write a graph of two classes that neither words nor neighbours alone tell apart: noisy in both."""
    from scipy.sparse import csr_matrix

    draw = np.random.default_rng(0)
    labels = np.arange(nodes) % 2
    words = draw.random((nodes, 20)) < np.where((np.arange(20) % 2) == labels[:, None], 0.4, 0.15)
    pairs = np.triu_indices(nodes, 1)
    same = labels[pairs[0]] == labels[pairs[1]]
    edges = np.array(pairs)[:, draw.random(len(same)) < np.where(same, 0.1, 0.01)]
    rows = csr_matrix(words.astype(np.float32))
    train, validation, test = np.split(draw.permutation(nodes), [20, 40])
    np.savez(
        path,
        feat_data=rows.data,
        feat_indices=rows.indices,
        feat_indptr=rows.indptr,
        feat_shape=rows.shape,
        labels=labels,
        edges=edges,
        train_idx=train,
        val_idx=validation,
        test_idx=test,
    )
    return path


@pytest.fixture(scope="module")
def clubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a small graph."""
    return two_clubs(tmp_path_factory.mktemp("graph") / "clubs.npz")


@pytest.mark.parametrize("size", [*SIZES, GraphNetwork(5, 24, 11)])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_operations_and_memory_are_what_the_laws_say(
    clubs: Path, size: GraphNetwork, share: float
) -> None:
    """torch's own counter and profiler agree with the formulas to the last one."""
    graph = Citations.read(clubs)
    graph = graph if share == 1 else graph.part(share)
    network = Gcn2(graph, size).eval()
    assert counted_operations(network) == size.operations(graph.size)
    assert kept_bytes(network) == size.kept_bytes(graph.size)
    assert sum(x.numel() for x in network.parameters()) == size.weights(graph.size)
    allocated = measured_activation_bytes(network)
    assert allocated == size.activation_bytes(graph.size)


def test_the_network_is_gcnii(clubs: Path) -> None:
    """The equations of the paper, written out densely, give the same logits."""
    graph = Citations.read(clubs)
    size = GraphNetwork(3, 8, 20)
    network = Gcn2(graph, size).eval()
    w = {name: x.detach().numpy() for name, x in network.named_parameters()}
    nodes = graph.size.nodes
    a = np.eye(nodes)
    a[graph.edges[0], graph.edges[1]] = a[graph.edges[1], graph.edges[0]] = 1
    degree = a.sum(axis=1)
    p = a / np.sqrt(degree[:, None] * degree[None, :])
    h = h0 = np.maximum(graph.features @ w["first.weight"].T + w["first.bias"], 0)
    for step in range(size.steps):
        beta = np.log(0.5 / (step + 1) + 1)
        mixed = 0.9 * p @ h + 0.1 * h0
        h = np.maximum((1 - beta) * mixed + beta * mixed @ w[f"steps.{step}.weight1"], 0)
    logits = h @ w["last.weight"].T + w["last.bias"]
    np.testing.assert_allclose(network().detach().numpy(), logits, atol=1e-5)


def test_a_law_of_time_finds_what_made_the_times() -> None:
    """Times that follow the law are told exactly for networks that it was not fitted to."""
    draw = np.random.default_rng(1)
    law = TimeLaw(np.array([2e-8, 4e-7, 3e-8, 5e-7, 2e-6, 0.05, 0.3]))
    cases = [
        (
            GraphSize(int(n), int(3 * n), 500, 7),
            GraphNetwork(int(t), int(w), int(f)),
        )
        for n, t, w, f in zip(
            draw.integers(500, 5000, 40),
            draw.integers(1, 20, 40),
            draw.integers(8, 80, 40),
            draw.integers(50, 500, 40),
            strict=True,
        )
    ]
    fitted = TimeLaw.fit(cases[:20], law.predict_ms(cases[:20]))
    np.testing.assert_allclose(fitted.predict_ms(cases[20:]), law.predict_ms(cases[20:]), rtol=1e-6)


def test_the_largest_that_fits_is_the_last_of_those() -> None:
    """Memory at the limit fits, a byte less does not, and nothing fits nothing."""
    graph = GraphSize(2708, 5278, 1433, 7)
    sizes = [GraphNetwork.of(GRAPH_RULE, phi, 1433) for phi in range(8)]
    for phi, network in enumerate(sizes):
        limit = network.memory_bytes(graph)
        assert largest(sizes, lambda n, b=limit: n.memory_bytes(graph) <= b) == phi
        below = largest(sizes, lambda n, b=limit: n.memory_bytes(graph) < b)
        assert below == (phi - 1 if phi else None)
    assert sizes[2].features == sizes[7].features == 1433


def test_intervals_cover_what_they_should() -> None:
    """Of 95 % intervals about 95 % hold the truth; of one value nothing is known."""
    draw = np.random.default_rng(2)
    figures = [mean_and_half_width(list(draw.normal(size=4))) for _ in range(600)]
    assert 0.92 < np.mean([abs(mean) <= half for mean, half in figures]) < 0.98
    assert mean_and_half_width([0.5]) == (0.5, float("inf"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"edges": np.array([[0, 1], [2, 99]])}, "edges names nodes beyond 0 to 79"),
        ({"labels": np.zeros(3, int)}, "80 nodes need labels"),
        ({"test_idx": np.empty(0, int)}, "no part of the split is empty"),
        ({"feat_indptr": np.zeros(2, int)}, "no graph that can be read"),
    ],
)
def test_a_file_that_is_no_graph_is_refused_in_words(
    clubs: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    """What does not fit together is named; a file without arrays says which it wants."""
    with np.load(clubs) as file:
        np.savez(tmp_path / "bad.npz", **{**file, **change})
    with pytest.raises(InputError, match=words):
        Citations.read(tmp_path / "bad.npz")
    (tmp_path / "words.npz").write_text("words")
    with pytest.raises(InputError, match="not an NPZ file"):
        Citations.read(tmp_path / "words.npz")
    np.savez(tmp_path / "none.npz", x=np.zeros(1))
    with pytest.raises(InputError, match="feat_indptr"):
        Citations.read(tmp_path / "none.npz")


CONFIG = """
ladder = "profile.json"
policy = "greedy"
[zmq]
bind = ["ipc://a.sock"]
[http]
port = {port}
[budget]
sources = []
"""


ASKED = np.array([3, 79, 0])


class Served(NamedTuple):
    """A daemon that serves a trained ladder, and the same networks in this process."""

    address: str
    host: str
    names: list[str]
    direct: list[Any]


@pytest.fixture(scope="module")
def served(clubs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Train a ladder, and serve its folder; times are stated, far from the tests' deadlines anywhere."""
    graph, folder = Citations.read(clubs), tmp_path_factory.mktemp("served") / "nodes"
    save_ladder(folder, clubs, SIZES, [[train(graph, size, 0, 20)] for size in SIZES])
    variants = saved_ladder(folder)
    direct = [load_saved(folder, str(clubs), phi, size) for phi, size in enumerate(SIZES)]
    example = direct[0].example
    Profile(
        ladder="python:graph_ladder:ladder",
        backend="own",
        variants=tuple(
            VariantProfile(v.phi, v.name, v.quality, Latency(p50=ms, p95=ms))
            for v, ms in zip(variants, (100.0, 60_000.0), strict=True)
        ),
        stall_ms=((0.0, 0.0), (0.0, 0.0)),
        conditions={"input": describe(example), "output": describe(direct[0](example))},
    ).save(folder / "profile.json")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "adaphi.toml").write_text(CONFIG.format(port=port))
    command = [sys.executable, "-m", "adaphi", "serve", "--config", "adaphi.toml"]
    address, names = f"ipc://{folder}/a.sock", [v.name for v in variants]
    with subprocess.Popen(command, cwd=folder) as process:
        try:
            with Client(address) as client:
                client.wait_until_ready(60)
            yield Served(address, f"127.0.0.1:{port}", names, direct)
        finally:
            process.terminate()
    assert process.returncode == 0


def test_a_daemon_answers_for_nodes(served: Served) -> None:
    """A trained ladder's folder is served: the logits are the network's own, and the deadline picks φ."""
    with Client(served.address) as client:
        for deadline_ms, phi in ((30_000, 0), (300_000, 1), (30_000, 0)):
            answer = client.infer(ASKED, deadline_ms=deadline_ms, raw=True)
            assert answer.phi == phi and answer.name == served.names[phi]
            expected = served.direct[phi](ASKED)
            np.testing.assert_allclose(answer.output, expected, atol=1e-5)
            assert (answer.output.argmax(1) == expected.argmax(1)).all()
        with pytest.raises(InvalidRequest, match="nodes are 0 to 79"):
            client.infer(np.array([80]), deadline_ms=30_000, raw=True)
        with pytest.raises(InvalidRequest, match="takes int64 with 1 axes"):
            client.infer(np.zeros((4, 4, 3), np.uint8), deadline_ms=30_000)


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_asks_for_nodes(served: Served, binary: bool) -> None:
    """It is told what the ladder takes and gives, asks for that, and hears why nothing else is taken."""
    triton = pytest.importorskip("tritonclient.http")
    from tritonclient.utils import InferenceServerException

    model = "python:graph_ladder:ladder"

    def ask(array: np.ndarray[Any, Any], deadline_ms: int, classes: int = 0, **named: str) -> Any:
        about = client.get_model_metadata(model)["inputs"][0] | named
        nodes = triton.InferInput(about["name"], list(array.shape), about["datatype"])
        nodes.set_data_from_numpy(array, binary_data=binary)
        wanted = triton.InferRequestedOutput("logits", binary_data=binary, class_count=classes)
        parameters = {"deadline_ms": deadline_ms}
        return client.infer(model, [nodes], outputs=[wanted], parameters=parameters)

    with triton.InferenceServerClient(served.host) as client:
        about = client.get_model_metadata(model)
        assert about["inputs"] == [{"name": "input", "datatype": "INT64", "shape": [-1]}]
        assert about["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, -1]}]
        config = client.get_model_config(model)
        assert config["input"] == [{"name": "input", "data_type": "TYPE_INT64", "dims": [-1]}]
        for deadline_ms, phi in ((30_000, 0), (300_000, 1)):
            found, expected = ask(ASKED, deadline_ms), served.direct[phi](ASKED)
            np.testing.assert_allclose(found.as_numpy("logits"), expected, atol=1e-5)
            assert found.get_response()["model_version"] == served.names[phi]
        first = ask(ASKED, 30_000, classes=1).as_numpy("logits")
        assert first.shape == (3, 1)
        told = [(text if isinstance(text, str) else text.decode()) for text in first.flat]
        best = served.direct[0](ASKED).argmax(1)
        assert [int(text.split(":")[1]) for text in told] == best.tolist()
        for array, named, words in (
            (np.array([80]), {}, "nodes are 0 to 79"),
            (np.array([7], np.int32), {"datatype": "INT32"}, "takes int64 with 1 axes"),
            (np.array([[7]]), {}, "takes int64 with 1 axes"),
            (np.array([7]), {"name": "image"}, "expected one input, 'input'; got 'image'"),
        ):
            with pytest.raises(InferenceServerException, match=words) as refused:
                ask(array, 30_000, **named)
            assert refused.value.status() == "400"


def test_training_repeats_and_learns(clubs: Path) -> None:
    """The same seed gives the same weights, and a few epochs tell the two classes apart."""
    graph = Citations.read(clubs)
    one, two = (train(graph, SIZES[1], 3, 30) for _ in range(2))
    assert one.accuracy == two.accuracy > 0.8
    assert all((one.weights[name] == two.weights[name]).all() for name in one.weights)


@pytest.mark.skipif(not CORA.exists(), reason="Cora does not lie beside the checkout")
def test_a_cell_of_what_was_found_on_cora_repeats() -> None:
    """The smallest network with seed 0 names about as many test nodes right as when it was written down."""
    found = json.loads(FOUND.read_text())["ladder"][0]
    graph = Citations.read(CORA)
    size = GraphNetwork(found["steps"], found["width"], found["features"])
    assert size == GraphNetwork.of(GRAPH_RULE, 0, graph.size.features)
    assert counted_operations(Gcn2(graph, size).eval()) == found["counted_multiply_adds"]
    assert abs(train(graph, size, 0, 60).accuracy - found["accuracy"][0]) < 0.04


def test_the_command_prints_laws_and_says_what_it_lacks() -> None:
    """Without a graph only the laws are told; what they cannot tell is refused in words."""
    run = CliRunner().invoke
    said = run(app, ["plan", "graph", "--memory-mb", "10", "--json"], catch_exceptions=False)
    value = json.loads(said.output)
    assert value["largest_by_memory"]["phi"] == 1
    assert value["ladder"][1]["memory_bytes"] <= 10e6 < value["ladder"][2]["memory_bytes"]
    with pytest.raises(InputError, match="--graph"):
        run(app, ["plan", "graph", "--latency-ms", "5"], catch_exceptions=False)
    with pytest.raises(InputError, match="nodes is 0"):
        run(app, ["plan", "graph", "--nodes", "0"], catch_exceptions=False)


def test_the_command_trains_measures_and_leaves_a_ladder(clubs: Path, tmp_path: Path) -> None:
    """From a graph's file to a page and to a folder that holds a ladder in order of cost."""
    pytest.importorskip("plotly")
    folder, page = tmp_path / "nodes", tmp_path / "graph.html"
    command = ["plan", "graph", "--graph", str(clubs), "--sizes", "2", "--seeds", "2"]
    command += ["--epochs", "5", "--latency-ms", "1e30", "-o", str(folder), "--report", str(page)]
    said = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "the largest that fits 1e+30 ms: φ = 16 or more" in said.output
    assert "python:graph_ladder:ladder" in said.output and "±" in said.output
    assert "Plotly.newPlot" in page.read_text()
    assert [v.phi for v in saved_ladder(folder)] == [0, 1]


def test_a_folder_without_a_whole_ladder_is_refused_in_words(clubs: Path, tmp_path: Path) -> None:
    """Missing and damaged files are named."""
    with pytest.raises(LadderError, match=r"ladder\.json cannot be read"):
        saved_ladder(tmp_path)
    for content in (None, b"no weights"):
        if content is not None:
            (tmp_path / "phi1.safetensors").write_bytes(content)
        with pytest.raises(LadderError, match=r"phi1\.safetensors cannot be read"):
            load_saved(tmp_path, str(clubs), 1, SIZES[1])
