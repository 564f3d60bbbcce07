"""What is counted later is counted by whoever asks: nobody ever reads figures that lag behind the answers."""

from __future__ import annotations

from collections.abc import Callable

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from adaphi.controller.books import Books
from adaphi.controller.metrics import Histogram, Metrics
from adaphi.controller.protocol import AnswerHeader
from adaphi.model_zoo import Profile

BOUNDS = (0.001, 0.02, 0.5, 1.0, 7.5)


def answer(phi: int, *, late: bool) -> AnswerHeader:
    return AnswerHeader(7, phi, "", 30.0, 10.0, 20.0, late, "float32", (1,))


@pytest.fixture
def kept(profile: Profile) -> tuple[Books, Metrics]:
    metrics = Metrics("ladder", "0")
    metrics.start(profile)
    books = Books(profile, metrics)
    books.decided(1e-5)
    books.ran(1, 2, 20.0, [answer(1, late=False), answer(1, late=True)])
    books.ran(0, 1, 5.0, [])  # its client went away
    return books, metrics


def scraped(metrics: Metrics, name: str) -> float:
    lines = generate_latest(metrics.registry).decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("again", [False, True])
def test_the_metrics_are_settled_before_they_are_read(
    kept: tuple[Books, Metrics], again: bool
) -> None:
    _, metrics = kept
    if again:
        scraped(metrics, "adaphi_requests_total")
    assert scraped(metrics, "adaphi_decision_duration_seconds_count") == 1
    assert scraped(metrics, "adaphi_request_duration_seconds_count") == 2
    assert scraped(metrics, "adaphi_request_duration_seconds_sum") == pytest.approx(0.06)
    assert scraped(metrics, "adaphi_inference_duration_seconds_count") == 2
    assert scraped(metrics, "adaphi_requests_total") == 2


def test_who_is_turned_away_is_late_in_the_history(kept: tuple[Books, Metrics]) -> None:
    """One answer on time and one late; of four refusals one was for another reason."""
    books, metrics = kept
    metrics.count("expired", 1)
    for code in ("shed", "busy", "invalid_request"):
        metrics.count_refusal(code)
    assert all_late(books) == 4 / 5
    assert books.history.summary()["refused"] == 3


def all_late(books: Books) -> float:
    books.history.tick(0.0, 0, None)
    books.history.tick(1.0, 0, None)
    return float(books.history.summary()["late_share"] or 0)


@pytest.mark.parametrize(
    ("read", "expected"),
    [(all_late, 0.5), (lambda b: b.tallies[1].done, 2), (lambda b: b.tallies[1].runs[2][0], 1)],
    ids=["history", "answers", "runs"],
)
def test_so_are_the_history_and_the_tallies(
    kept: tuple[Books, Metrics], read: Callable[[Books], float], expected: float
) -> None:
    assert read(kept[0]) == expected
    assert kept[0].tallies[0].runs == {1: (0, 0)}  # a run that answered nobody tells nothing


@given(
    st.lists(st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(0, 10)), max_size=9), max_size=9)
)
def test_histograms_read_as_the_library_s_own(told: list[list[float]]) -> None:
    """Bounds are inclusive, sums and labels the same, to the letter."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = Histogram("x_seconds", "Text.", BOUNDS, ours, "variant", ["a", "b"])
    other = prometheus_client.Histogram(
        "x_seconds", "Text.", ["variant"], buckets=BOUNDS, registry=theirs
    )
    for name in ("a", "b"):
        other.labels(name)
    for number, values in enumerate(told):
        mine.observe(values, number % 2)
        for value in values:
            other.labels("ab"[number % 2]).observe(value)
    expected = generate_latest(theirs).decode().splitlines()
    assert generate_latest(ours).decode().splitlines() == [
        line for line in expected if "_created" not in line
    ]
