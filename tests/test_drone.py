"""Motion blur: the kernel, the law of a moving camera, its fit, and real photographs measured again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from adaphi.cli.app import app
from adaphi.errors import InputError
from adaphi.model_zoo.ladders import DEFAULT, get_ladder
from adaphi.model_zoo.scaling import PUBLISHED
from adaphi.model_zoo.scaling.blurring import Blurred, Seen, bits, blurred, measure
from adaphi.model_zoo.scaling.drone import (
    MEASURED,
    BlurLaw,
    best_of,
    blur_px,
    fit,
    largest_worth,
    plan,
)

pytest.importorskip("scipy")
pytest.importorskip("statsmodels")

FILE = Path(__file__).parents[1] / "docs" / "scaling" / "drone.json"
IMAGES = Path(__file__).parents[2] / "shared" / "data" / "images"


def recorded(right: np.ndarray, sides: list[int], blur: tuple[int, ...]) -> Blurred:
    """Return a measurement with `right` (sides, K, n)."""
    seen = []
    for place, side in enumerate(sides):
        texts = tuple("".join(str(int(bit)) for bit in row) for row in right[place])
        seen.append(Seen(f"v{place}", place, side, side, texts, texts))
    return Blurred("m", "2026-01-01", "c", right.shape[2], 288.0, blur, tuple(seen))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("length", [1, 2, 5, 16])
def test_a_wave_keeps_what_a_box_leaves_of_it(axis: int, length: int) -> None:
    """Along the motion contrast falls by |sin(π f b) / (b sin(π f))|, across it nothing changes."""
    period = 24
    along = 127.5 + 100 * np.cos(2 * np.pi * np.arange(240) / period)
    picture = np.repeat(np.rint(np.broadcast_to(along, (240, 240)))[:, :, None], 3, axis=2)
    picture = np.asarray(picture if axis == 1 else picture.transpose(1, 0, 2), np.uint8)
    f = 1 / period
    left = abs(math.sin(math.pi * f * length) / (length * math.sin(math.pi * f)))
    inner = (slice(48, 192), slice(48, 192))
    moved = blurred(picture, length, axis)[inner].astype(float)
    spectrum = np.abs(np.fft.fft(moved[..., 0].mean(axis=1 - axis)))
    assert 2 * spectrum[144 // period] / 144 == pytest.approx(100 * left, abs=0.5)
    assert np.array_equal(blurred(picture, length, 1 - axis), picture)
    assert left == pytest.approx(float(BlurLaw(1, 1, 2).transfer(f, length)), abs=0.03)


@given(st.floats(0.5, 1), st.floats(20, 200), st.floats(0.02, 0.5), st.floats(0.001, 0.1))
def test_a_blurred_picture_is_best_seen_at_one_size(
    ceiling: float, scale_px: float, sharpness: float, share: float
) -> None:
    """Up to the first zero accuracy rises to a peak and falls; more blur moves the peak to smaller sizes."""
    law = BlurLaw(ceiling, scale_px, sharpness)

    def peak(blur: float) -> int:
        r = np.linspace(1e-3, 2 / (sharpness * blur), 2000)
        accuracy = law.accuracy(r, blur)
        top = int(accuracy.argmax())
        assert (np.diff(accuracy[: top + 1]) >= 0).all() and (np.diff(accuracy[top:]) <= 0).all()
        assert 0 < top < 1999
        return int(r[top])

    assert peak(2 * share) <= peak(share)
    still = law.accuracy(np.linspace(1, 1000, 100), 0.0)
    assert (np.diff(still) >= 0).all() and still[-1] <= ceiling


def test_a_pinhole_smears_what_moves_past_it() -> None:
    assert blur_px(10, 5, 10, 300) == pytest.approx(1.5)
    assert blur_px(20, 10, 5, 300) == pytest.approx(8 * 1.5)
    for wrong in ((-1, 5, 10, 300), (1, 0, 10, 300), (1, 5, math.inf, 300), (1, 5, 10, math.nan)):
        with pytest.raises(InputError, match="expected a finite number above 0"):
            blur_px(*wrong)


def test_a_fit_finds_the_law_that_made_the_answers() -> None:
    """On answers drawn from a law, its numbers lie within four standard errors of the fitted ones."""
    law, rng = BlurLaw(0.93, 90.0, 0.12), np.random.default_rng(1)
    sides, blur = [100, 150, 200, 250, 300], (0, 4, 8, 16)
    shares = np.array(blur) / 288
    chance = np.stack([law.accuracy(side, shares) for side in sides])
    right = rng.random((5, 4, 3000)) < chance[:, :, None]
    found = fit(recorded(right, sides, blur))
    for got, error, truth in zip(
        (found.law.ceiling, found.law.scale_px, found.law.sharpness),
        found.errors,
        (0.93, 90.0, 0.12),
        strict=True,
    ):
        assert abs(got - truth) < 4 * error < truth
    assert found.worst < 0.05
    with pytest.raises(InputError, match="two resolutions"):
        fit(recorded(right[:1], sides[:1], blur))


@given(st.integers(0, 12), st.integers(0, 12))
def test_rivals_are_those_that_a_coin_could_have_put_behind(lost: int, won: int) -> None:
    """McNemar's exact test is a coin thrown once for every photograph that only one has right."""
    lost, won = min(lost, won), max(lost, won)
    one = np.r_[np.ones(won), np.zeros(lost), np.ones(5)].astype(bool)
    two = np.r_[np.zeros(won), np.ones(lost), np.ones(5)].astype(bool)
    best = best_of(
        recorded(np.stack([[one], [two]]), [100, 200], (0,)).seen,
        BlurLaw(1, 1, 1),
        np.zeros(1),
    )[0]
    n = lost + won
    chance = min(1.0, 2 * sum(math.comb(n, k) for k in range(lost + 1)) / 2**n)
    assert best.measured == 0 and (1 in best.rivals) == (chance >= 0.05)


def test_the_limit_binds_and_blur_decides_below_it() -> None:
    """L(φ) = L_base (α β² γ²)^φ; the chosen φ is the best that a search over all finds."""
    law, shares = BlurLaw(0.95, 100.0, 0.1), np.array([0.0, 0.05])
    family = plan(PUBLISHED, law, base_ms=5, base_px=200, shares=shares, sizes=8)
    for one in family:
        assert one.latency_ms == pytest.approx(5 * (1.2 * 1.1**2 * 1.15**2) ** one.phi)
    sharp, moved = (largest_worth(family, 30, k) for k in (0, 1))
    assert sharp is not None and moved is not None
    assert sharp.phi == max(one.phi for one in family if one.latency_ms <= 30)
    assert moved.phi < sharp.phi
    assert largest_worth(family, 4.9, 0) is None
    with pytest.raises(InputError, match="base_ms is 0"):
        plan(PUBLISHED, law, base_ms=0, base_px=200, shares=shares, sizes=2)


def test_photographs_measured_again_give_the_same_answers(tmp_path: Path) -> None:
    """The first six photographs, at no blur and at 16 px: what the page's file says of them."""
    if not IMAGES.exists():
        pytest.skip("the photographs are not here")
    lines = (IMAGES / "labels.csv").read_text().splitlines()[:7]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    for line in lines[1:]:
        (tmp_path / line.partition(",")[0]).symlink_to(IMAGES / line.partition(",")[0])
    variants = get_ladder(DEFAULT).variants[:1]
    again = measure(tmp_path, variants, [0, 16], [160], most=6)
    before = Blurred.load(FILE)
    levels = [before.blur_px.index(blur) for blur in (0, 16)]
    for now in again.seen:
        then = next(s for s in before.seen if (s.name, s.side_px) == (now.name, now.side_px))
        expected = bits([then.right[k][:6] for k in levels])
        assert (bits(now.right) != expected).sum() <= 1  # a tie may fall otherwise elsewhere
        assert now.seen_px == then.seen_px
    again.save(tmp_path / "again.json")
    assert Blurred.load(tmp_path / "again.json") == again


@pytest.mark.parametrize(
    ("blur", "labels", "said"),
    [
        ([2, 4], "file,imagenet_index\na.jpg,1\n", "expected 0 first"),
        ([0], "file,imagenet_index\na.jpg,1000\n", "labels.csv:2: imagenet_index is '1000'"),
        ([0], "file\na.jpg\n", "no column imagenet_index"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, blur: list[int], labels: str, said: str
) -> None:
    (tmp_path / "labels.csv").write_text(labels)
    with pytest.raises(InputError, match=said):
        measure(tmp_path, [], blur, [], most=5)


def test_the_command_goes_by_the_law_or_by_what_was_measured(tmp_path: Path) -> None:
    """A table, JSON and a page; each φ that is named best fits the limit."""
    pytest.importorskip("plotly")
    page = tmp_path / "drone.html"
    command = ["plan", "drone", "--measured", str(FILE), "--json", "--report", str(page)]
    found = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).output)
    for best in found["best"]:
        assert found["family"][best["phi"]]["latency_ms"] <= 30
    stated = MEASURED.law
    assert found["law"]["law"] == {
        "ceiling": pytest.approx(stated.ceiling, rel=1e-3),
        "scale_px": pytest.approx(stated.scale_px, rel=1e-3),
        "sharpness": pytest.approx(stated.sharpness, rel=1e-3),
    }
    assert [row["blur_px"] for row in found["measured"]["variants"]] == [0, 2, 4, 8, 16, 32]
    assert page.read_text().count("Plotly.newPlot") == 2
    said = CliRunner().invoke(app, ["plan", "drone", "--speed", "12"], catch_exceptions=False)
    assert "1.8 px" in said.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--measured", "nowhere.json"], "cannot read nowhere.json"),
        (["-o", "x.json"], "-o keeps a measurement"),
        (["--blur-px", "-1"], "a blur is 0 px or more"),
        (["--images", "a", "--measured", "b"], "exclude each other"),
        (["--images", "a", "--blur-px", "0,1.5"], "whole pixels"),
        (["--gamma", "0"], "gamma is 0"),
    ],
)
def test_bad_options_say_what_would_do(options: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["plan", "drone", *options])
    assert done.exit_code and said in str(done.exception) + done.output


def test_a_file_that_is_no_measurement_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "blur.json"
    file.write_text('{"machine": 3}')
    with pytest.raises(InputError, match=r"blur.json: .*\$\.machine"):
        Blurred.load(file)
    damaged = FILE.read_text().replace("01", "0", 1)
    file.write_text(damaged)
    with pytest.raises(InputError, match="a digit for each photograph"):
        Blurred.load(file)
    made = recorded(np.array([[[1, 1, 0, 1], [0, 1, 0, 1]]]), [100], (0, 8))
    assert made.shares.tolist() == [0, 8 / 288] and made.kept().tolist() == [[0.75], [0.5]]
