"""Wrong input: one clear error that says where, and nothing lost."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

from adaphi.config import load_config
from adaphi.controller import daemon
from adaphi.errors import ConfigError, PolicyError, TraceError
from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.policies import TablePolicy, artefact
from adaphi.sim import Trace


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("time_s,budget_ms\n0,1\n1,nan\n", ":3:2: budget_ms"),
        ("time_s,budget_ms\n0,1\n0,2\n", ":3:1: time_s"),
        ("time_s,budget_ms\n0,1\n1,x\n", ":3:2: budget_ms"),
        ("time_s,budget_ms\n0,1\n1\n", ":3:2: expected 2 fields"),
        ("time_s,budget_ms\n0,1\n1,-2\n", ":3:2: budget_ms"),
        ("time_s,load\n0,1\n", ":1: expected the columns"),
        ("", ":1: the file is empty"),
    ],
)
def test_a_bad_trace_names_file_line_and_column(text: str, where: str, tmp_path: Path) -> None:
    """NaN, unsorted times, a missing column or field: the message says where it is."""
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(TraceError, match=r"t\.csv" + where.replace(".", r"\.")):
        Trace.read(tmp_path / "t.csv")


def test_traces_are_read_as_they_were_written(tmp_path: Path) -> None:
    """CSV and NPZ give back every bit."""
    trace = Trace.from_budgets(np.random.default_rng(0).lognormal(3, 1, 50), step_s=0.1)
    for name in ("t.csv", "t.npz"):
        trace.write(tmp_path / name)
        again = Trace.read(tmp_path / name)
        np.testing.assert_array_equal(again.budget_ms, trace.budget_ms)
        np.testing.assert_array_equal(again.time_s, trace.time_s)


def test_every_flipped_byte_of_a_policy_is_noticed_or_harmless(profile: Profile) -> None:
    """A policy with any one byte flipped is refused, or decides exactly as before."""
    policy = TablePolicy.solve(profile)
    content = policy.to_bytes()
    refused = 0
    for place in range(0, len(content), max(1, len(content) // 400)):
        damaged = bytearray(content)
        damaged[place] ^= 0x40
        try:
            loaded = TablePolicy.from_bytes(bytes(damaged))
        except PolicyError:
            refused += 1
            continue
        np.testing.assert_array_equal(loaded.table, policy.table)
        np.testing.assert_array_equal(loaded.chain.edges, policy.chain.edges)
    assert refused > 300


def test_a_policy_for_another_ladder_is_refused(profile: Profile) -> None:
    """Binding a policy to other variants raises, and the message names both ladders."""
    other = Profile(
        ladder="other",
        variants=(VariantProfile(0, "x", 0.5, Latency(p95=1.0)),),
        stall_ms=((0.0,),),
    )
    with pytest.raises(PolicyError, match=r"'three'.*'other'"):
        TablePolicy.solve(profile).bind(other)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("colour = 1", "colour"),
        ("[worker]\nthreads = 0", r"\$\.worker\.threads"),
        ("[http]\nport = 'x'", r"\$\.http\.port"),
        ("[http]\nhost = '0.0.0.0'", r"\$\.http\.host"),
        ("[zmq]\nbind = ['tcp://*:1']", r"\$\.zmq\.bind\[0\]"),
        ("[zmq]\nbind = ['ipc://a', 'tcp://127.0.0.1:0']", r"\$\.zmq\.bind\[1\]"),
        ("[zmq]\nbind = ['tcp://127.0.0.1:*']", r"\$\.zmq\.bind\[0\]"),
        ("[zmq]\nbind = ['tcp://127.0.0.1:65536']", r"\$\.zmq\.bind\[0\]"),
        ("[budget]\nsources = ['cpu', 'thermal', 'thermal:80']", r"\$\.budget\.sources\[2\]"),
        ("latency = 'p42'", r"p42.*\$\.latency"),
    ],
)
def test_a_bad_configuration_names_the_key(text: str, path: str, tmp_path: Path) -> None:
    """Unknown keys, wrong values and addresses beyond this machine are refused with their path."""
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError, match=path):
        load_config(tmp_path / "a.toml")


def test_a_policy_packed_in_a_way_that_is_none_is_refused(profile: Profile) -> None:
    """Whatever the archive says of its parts: lzma, bzip2 and others raise errors of their own."""
    content = TablePolicy.solve(profile).to_bytes()
    archive = zipfile.ZipFile(io.BytesIO(content))
    places, at = [], archive.start_dir
    while (at := content.find(b"PK\x01\x02", at)) >= 0:
        places.append(at + 10)
        at += 4
    assert len(places) == len(archive.infolist())
    for place in places:
        for method in (1, 12, 14, 93, 99):
            damaged = bytearray(content)
            damaged[place] = method
            with pytest.raises(PolicyError):
                TablePolicy.from_bytes(bytes(damaged))


@pytest.mark.parametrize(
    ("policy", "is_path"), [("greedy", False), ("p.npz", True), ("sub/p", True)]
)
def test_relative_paths_are_from_the_configuration_s_folder(
    policy: str, is_path: bool, tmp_path: Path
) -> None:
    """Wherever the daemon was started; a rule is no path."""
    text = f'policy = "{policy}"\n[recorder]\nfolder = "flights"\n'
    (tmp_path / "a.toml").write_text(text)
    config = load_config(tmp_path / "a.toml")
    assert config.policy == (str(tmp_path / policy) if is_path else policy)
    assert config.recorder.folder == str(tmp_path / "flights")


def test_a_policy_is_written_to_what_its_path_means(tmp_path: Path) -> None:
    """Through a link into the file behind it; into a pipe, which stays one; and nothing half is left."""
    real, link, pipe = (tmp_path / name for name in ("real.npz", "link.npz", "pipe"))
    real.write_bytes(b"old")
    link.symlink_to(real)
    artefact.write(link, b"new")
    assert link.is_symlink() and real.read_bytes() == b"new"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    artefact.write(pipe, b"new")
    assert pipe.is_fifo() and os.read(reader, 9) == b"new"
    os.close(reader)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        artefact.write(tmp_path / "folder", b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "link.npz", "pipe", "real.npz"]


def test_a_policy_that_inflates_beyond_measure_is_refused_before_it_does() -> None:
    """A few hundred kilobytes on the wire, 80 MB of zeros."""
    packed = artefact.pack({"table": np.zeros(80_000_000, np.uint8)}, {})
    assert len(packed) < 1_000_000
    with pytest.raises(PolicyError, match="larger than 64 MiB"):
        artefact.unpack(packed)


def test_a_header_beyond_its_limit_is_not_read_for_its_id() -> None:
    """Who sends one is refused without being named."""
    header = msgspec.msgpack.encode({"id": 7, "asked": list(range(40_000))})
    assert daemon._id_of([b"ADP1", b"H", header]) is None
    assert daemon._id_of([b"ADP1", b"H", msgspec.msgpack.encode({"id": 7})]) == 7
    assert daemon._id_of([b"ADP1"]) is daemon._id_of([b"ADP1", b"H", b"\xff"]) is None
