"""The flight recorder: bounded, whole after a crash, unmoved by a full disk; and what can be asked of it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaphi.controller import flight
from adaphi.controller.flight import RECORD, FlightRecorder, Header, read_recording, segments
from adaphi.errors import InputError, TraceError
from adaphi.model_zoo import Profile
from adaphi.sim import Trace, replay
from adaphi.sim.counterfactual import compare_flight
from adaphi.sim.importing import import_flight


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def header(profile: Profile) -> Header:
    return Header(
        boot_id="b",
        ladder=profile.ladder,
        ladder_fingerprint=profile.ladder_fingerprint,
        policy="greedy",
        variants=tuple(v.name for v in profile.variants),
        typical_ms=tuple(profile.typical_ms()),
    )


def decide(recorder: FlightRecorder, clock: Clock, reading_ms: float, phi: int = 0) -> None:
    clock.now_s += 0.01
    recorder.add(flight.DECISION, phi=phi, reading_ms=reading_ms, slack_ms=20.0, inference_ms=10.0)


def test_what_is_added_is_read_back(profile: Profile, tmp_path: Path) -> None:
    """Every field of every record, unknown ones as NaN, in order."""
    clock = Clock()
    recorder = FlightRecorder(tmp_path, header(profile), clock=clock, timer=clock)
    recorder.add(flight.READING, slowdown=1.5, budget_ms=40.0, resident=frozenset({0, 2}))
    recorder.add(
        flight.DECISION, outcome="late", previous=1, phi=2, reading_ms=30.0, slack_ms=29.0,
        inference_ms=31.0, latency_ms=33.0, memory_bytes=5e8, energy_j=1e4,
    )  # fmt: skip
    recorder.close()
    written, records = read_recording(tmp_path)
    assert written == header(profile)
    reading, decision = records
    assert (reading["kind"], reading["resident"], reading["slowdown"]) == (0, 0b101, 1.5)
    assert np.isnan(reading["reading_ms"]) and np.isnan(reading["energy_j"])
    assert (decision["previous"], decision["phi"], decision["outcome"]) == (1, 2, 1)
    assert [decision[n] for n in ("slack_ms", "inference_ms", "latency_ms")] == [29.0, 31.0, 33.0]
    assert decision["time_s"] == 1000.0 and decision["memory_bytes"] == 5e8


def test_no_number_is_too_large_to_be_recorded(profile: Profile, tmp_path: Path) -> None:
    """A deadline of 1e308 ms is recorded as the largest number that fits, with its sign; ∞ and NaN stay."""
    recorder = FlightRecorder(tmp_path, header(profile))
    for x in (1e308, -1e308, float("inf"), float("nan"), 3.5):
        recorder.add(flight.DECISION, slack_ms=x, budget_ms=x)
    recorder.close()
    slack = read_recording(tmp_path)[1]["slack_ms"]
    most = np.finfo(np.float32).max
    np.testing.assert_array_equal(slack, np.array([most, -most, np.inf, np.nan, 3.5], np.float32))


def test_a_recording_never_takes_more_than_its_limit(profile: Profile, tmp_path: Path) -> None:
    """Ten times the limit is written: what is there is the newest part, in order, within the limit."""
    clock, limit_bytes = Clock(), 40_000
    recorder = FlightRecorder(
        tmp_path, header(profile), limit_bytes=limit_bytes, clock=clock, timer=clock
    )
    most = 0
    for number in range(10 * limit_bytes // RECORD.itemsize):
        decide(recorder, clock, float(number))
        if number % 10 == 9:
            recorder.flush(force=True)
            most = max(most, sum(p.stat().st_size for p in segments(tmp_path)))
    recorder.close()
    _, records = read_recording(tmp_path)
    numbers = records["reading_ms"]
    assert most <= limit_bytes
    assert len(records) > 0.7 * limit_bytes / RECORD.itemsize
    np.testing.assert_array_equal(np.diff(numbers), 1.0)
    assert numbers[-1] == 10 * limit_bytes // RECORD.itemsize - 1


def test_short_lives_push_nothing_out_that_has_room(profile: Profile, tmp_path: Path) -> None:
    """However often a recorder begins anew, the oldest go for room alone; a lower limit holds at once."""
    clock = Clock()

    def live(number: int, limit_bytes: int) -> None:
        recorder = FlightRecorder(
            tmp_path, header(profile), limit_bytes=limit_bytes, clock=clock, timer=clock
        )
        for _ in range(number):
            decide(recorder, clock, 1.0)
        recorder.close()

    for number in (500, *[5] * 20):
        live(number, 1_000_000)
    assert len(read_recording(tmp_path)[1]) == 600
    live(5, 20_000)
    assert sum(path.stat().st_size for path in segments(tmp_path)) <= 20_000
    assert len(read_recording(tmp_path)[1]) == 5 * 21


def test_a_clock_that_is_set_back_stops_nothing(profile: Profile, tmp_path: Path) -> None:
    """It is written on as often as before, and read as a trace whose time goes on."""
    clock, timer = Clock(), Clock()
    recorder = FlightRecorder(tmp_path, header(profile), clock=clock, timer=timer)
    for step_s in [0.0] * 5 + [-3600.0] + [0.0] * 4:
        clock.now_s += step_s
        decide(recorder, clock, 30.0)
        timer.now_s += 1.0
        recorder.flush()
    assert len(read_recording(tmp_path)[1]) == 10
    np.testing.assert_allclose(np.diff(import_flight(tmp_path).time_s), 0.01, atol=1e-6)


def test_another_policy_is_named_where_it_begins(profile: Profile, tmp_path: Path) -> None:
    """Its records are in segments of their own; the recording as a whole names both in their order."""
    clock = Clock()
    recorder = FlightRecorder(tmp_path, header(profile), clock=clock, timer=clock)
    for policy in ("greedy", "greedy", "table"):
        recorder.follow(policy)
        decide(recorder, clock, 30.0)
    recorder.close()
    assert [len(path.read_bytes().splitlines()[0]) > 0 for path in segments(tmp_path)] == [True] * 2
    read, records = read_recording(tmp_path)
    assert read.policy == "greedy, then table" and len(records) == 3


def test_a_folder_is_read_while_it_is_written(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment that goes between two looks is passed over."""
    recorder = FlightRecorder(tmp_path, header(profile))
    recorder.add(flight.READING)
    recorder.close()
    seen = [tmp_path / "flight-000000.rec", *segments(tmp_path)]
    monkeypatch.setattr(flight, "segments", lambda folder: seen)
    assert len(read_recording(tmp_path)[1]) == 1


@pytest.mark.parametrize(
    "damage",
    [{"phi": 9}, {"previous": 9}, {"slack_ms": np.nan}, {"inference_ms": 0.0},
     {"inference_ms": -1.0}, {"slowdown": 0.0}, {"slowdown": np.nan}, {"time_s": np.inf}],
)  # fmt: skip
def test_a_damaged_record_costs_only_itself(
    damage: dict[str, float], profile: Profile, tmp_path: Path
) -> None:
    """One flipped byte on a worn card: the others are read, and compared."""
    clock = Clock()
    recorder = FlightRecorder(tmp_path, header(profile), clock=clock, timer=clock)
    for number in range(40):
        decide(recorder, clock, 30.0 + number % 7)
    recorder.close()
    (path,) = segments(tmp_path)
    begin = path.read_bytes().index(b"\n") + 1
    records = np.memmap(path, RECORD, "r+", begin)
    for name, value in damage.items():
        records[20][name] = value
    records.flush()
    assert len(import_flight(tmp_path)) == 39
    assert compare_flight(tmp_path, profile, []).comparison.tables


def test_more_variants_than_a_record_has_bits_are_recorded(
    profile: Profile, tmp_path: Path
) -> None:
    """Which of the first 32 are resident is kept."""
    recorder = FlightRecorder(tmp_path, header(profile))
    recorder.add(flight.READING, resident=frozenset(range(40)))
    recorder.close()
    assert read_recording(tmp_path)[1]["resident"] == [2**32 - 1]


def test_a_burst_beyond_a_segment_is_cut(profile: Profile, tmp_path: Path) -> None:
    """More than a segment holds in one append: the newest are kept, the rest are counted."""
    clock = Clock()
    recorder = FlightRecorder(
        tmp_path, header(profile), limit_bytes=20_000, clock=clock, timer=clock
    )
    for number in range(200):
        decide(recorder, clock, float(number))
    recorder.close()
    _, records = read_recording(tmp_path)
    assert len(records) + recorder.lost == 200 and records["reading_ms"][-1] == 199


@given(st.integers(0, 400))
@settings(max_examples=30)
def test_cut_off_anywhere_it_keeps_every_whole_record(lost_bytes: int) -> None:
    """A crash or a full disk may tear the last record, nothing else."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        head = Header(
            boot_id="b",
            ladder="l",
            ladder_fingerprint="f",
            policy="p",
            variants=("a",),
            typical_ms=(1.0,),
        )
        recorder = FlightRecorder(folder, head, clock=clock, timer=clock)
        for number in range(10):
            decide(recorder, clock, float(number))
        recorder.close()
        (path,) = segments(Path(folder))
        os.truncate(path, path.stat().st_size - lost_bytes)
        _, records = read_recording(folder)
        assert len(records) == 10 - -(-lost_bytes // RECORD.itemsize)


def test_a_full_disk_stops_nothing(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error reaches the daemon; what is lost is counted; with room again, recording goes on."""
    clock, write = Clock(), os.write
    recorder = FlightRecorder(tmp_path, header(profile), clock=clock, timer=clock)
    decide(recorder, clock, 1.0)
    recorder.flush(force=True)

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for _ in range(3):
        decide(recorder, clock, 2.0)
        recorder.flush(force=True)
    assert recorder.lost == 3
    monkeypatch.setattr(os, "write", write)
    clock.now_s += 60
    decide(recorder, clock, 3.0)
    recorder.flush(force=True)
    shutil.rmtree(tmp_path)  # the folder itself goes away: a segment that is open is written on
    decide(recorder, clock, 4.0)
    recorder.close()
    assert recorder.lost == 3


@pytest.mark.parametrize("header_bytes", [None, 0, 9])
def test_a_disk_that_is_full_for_long_takes_nothing_of_what_was_recorded(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header_bytes: int | None
) -> None:
    """Segments that cannot even be begun neither push out nor spoil the others."""
    clock, write = Clock(), os.write
    recorder = FlightRecorder(tmp_path, header(profile), clock=clock, timer=clock)
    decide(recorder, clock, 1.0)
    recorder.flush(force=True)

    def full(fd: int, data: bytes) -> int:
        if header_bytes is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, bytes(data)[:header_bytes])

    monkeypatch.setattr(os, "write", full)
    for _ in range(20):
        clock.now_s += 60
        decide(recorder, clock, 2.0)
        recorder.flush(force=True)
    assert recorder.lost == 20 and len(read_recording(tmp_path)[1]) == 1
    monkeypatch.setattr(os, "write", write)
    recorder.close()
    (tmp_path / "flight-000099.rec").write_bytes(b'{"sch')  # killed while it began a segment
    assert len(read_recording(tmp_path)[1]) == 1


def test_a_disk_that_fills_in_the_middle_tears_one_record(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short write is noticed, and the segment is still readable up to it."""
    clock, write = Clock(), os.write
    recorder = FlightRecorder(tmp_path, header(profile), clock=clock, timer=clock)
    decide(recorder, clock, 1.0)
    recorder.flush(force=True)
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:-7]))
    decide(recorder, clock, 2.0)
    recorder.flush(force=True)
    assert recorder.lost == 1 and len(read_recording(tmp_path)[1]) == 1


def test_a_replay_of_the_recorded_policy_decides_as_it_did(
    profile: Profile, tmp_path: Path
) -> None:
    """Requests decided by greedy become a trace on which greedy decides alike, and others are scored."""
    clock = Clock()
    recorder = FlightRecorder(tmp_path, header(profile), clock=clock, timer=clock)
    readings = 10 * np.exp(np.random.default_rng(0).normal(0.3, 0.4, 200))
    greedy = replay(
        Trace(np.arange(201.0), np.full(201, 50.0), {"reading_ms": np.append(1.0, readings)}),
        profile,
        "greedy",
    )
    typical = profile.typical_ms()
    for reading_ms, phi in zip(readings.tolist(), greedy.decisions.tolist(), strict=True):
        clock.now_s += 0.05
        recorder.add(
            flight.DECISION, phi=phi, reading_ms=reading_ms, slack_ms=30.0, inference_ms=2 * typical[phi]
        )  # fmt: skip
        recorder.add(flight.READING, slowdown=2.0)
    recorder.add(flight.DECISION, phi=1)  # pinned: no policy decided
    recorder.add(flight.DECISION, outcome="shed")
    recorder.close()
    trace = import_flight(tmp_path)
    assert len(trace) == 200
    np.testing.assert_allclose(trace.budget_ms, 15.0, rtol=1e-6)  # 30 ms at twice the time
    again = replay(trace, profile, "greedy")
    # The first request is only a reading; until greedy has chosen once, what was active may differ.
    np.testing.assert_array_equal(again.decisions[5:], trace.columns["phi"][6:])
    assert replay(trace, profile, "static:0").on_time_share == 1.0


def test_what_is_no_recording_is_refused_in_words(profile: Profile, tmp_path: Path) -> None:
    """An empty folder, a file that is something else, a schema of tomorrow, too few decisions."""
    with pytest.raises(InputError, match=r"no flight-….rec"):
        read_recording(tmp_path)
    path = tmp_path / "flight-000001.rec"
    path.write_bytes(b"\x00\x01 nothing\n")
    with pytest.raises(InputError, match="not a segment"):
        read_recording(tmp_path)
    path.unlink()
    FlightRecorder(tmp_path, header(profile)).close()
    recorder = FlightRecorder(tmp_path, header(profile))
    recorder.add(flight.READING)
    recorder.close()
    with pytest.raises(TraceError, match="0 decisions"):
        import_flight(tmp_path)
    (segment,) = segments(tmp_path)
    segment.write_bytes(segment.read_bytes().replace(b'"schema":1', b'"schema":9'))
    with pytest.raises(InputError, match="schema 9"):
        read_recording(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot record in"):
        FlightRecorder(tmp_path / "file", header(profile))
