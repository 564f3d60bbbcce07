"""Shape bias: what counts as an answer by shape, its interval, the tests for a trend, and real pictures."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from adaphi.cli.app import app
from adaphi.errors import InputError
from adaphi.model_zoo.ladders import DEFAULT, get_ladder
from adaphi.model_zoo.scaling.bias import NEITHER, SHAPE, TEXTURE, Bias, CueConflicts, trend

pytest.importorskip("statsmodels")

MEASURED = Path(__file__).parents[1] / "docs" / "scaling" / "bias.json"
CUES = Path(__file__).parents[2] / "shared" / "data" / "cue_conflict"
MAPPING = "class16,imagenet_index\nbear,294\nbear,295\ncat,281\ncar,817\n"
LABELS = "file,shape_class,texture_class\na.png,bear,cat\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three classes and one picture (there in name only)."""
    (tmp_path / "class16_to_imagenet.csv").write_text(MAPPING)
    (tmp_path / "labels.csv").write_text(LABELS)
    return tmp_path


@pytest.mark.parametrize(
    ("scores", "follows"),
    [
        ({294: 9.0}, SHAPE),
        ({281: 9.0}, TEXTURE),
        ({817: 9.0}, NEITHER),
        ({294: 9.0, 281: 8.8}, TEXTURE),  # a bear's probability is the mean over both bears
        ({294: 9.0, 295: 9.0, 281: 8.8}, SHAPE),
        ({0: 20.0, 281: 1.0}, TEXTURE),  # a tench is none of the classes
    ],
)
def test_an_answer_follows_one_cue(folder: Path, scores: dict[int, float], follows: int) -> None:
    """The best mean probability over a class's members names the class."""
    logits = np.zeros(1000)
    for place, score in scores.items():
        logits[place] = score
    assert CueConflicts.read(folder).followed(0, logits) == follows


def test_the_interval_is_where_the_score_test_accepts() -> None:
    """Wilson's limits solve (p̂ − p)² = z² p (1 − p) / n."""
    low, high = Bias(30, 70, 12).interval()
    for limit in (low, high):
        assert (0.3 - limit) ** 2 == pytest.approx(
            1.959964**2 * limit * (1 - limit) / 100, rel=1e-5
        )
    assert low < 0.3 < high
    assert Bias(0, 0, 5).interval() == (0, 1) and math.isnan(Bias(0, 0, 5).share)


def test_the_trend_is_that_of_every_order() -> None:
    """The statistic's variance is that over all permutations of the answers, done here one by one."""
    answers = np.array([[1, 0, 0, -1], [1, 0, 1, -1], [1, 1, 1, 0]])
    scores = np.array([0.0, 1.0, 3.0])
    where = answers != NEITHER
    x = np.repeat(scores[:, None], 4, axis=1)[where]
    totals = {}
    for chosen in itertools.combinations(range(len(x)), int((answers == SHAPE).sum())):
        totals[chosen] = x[list(chosen)].sum()
    spread = np.array(list(totals.values()))
    seen = x[answers[where] == SHAPE].sum()
    assert trend(scores, answers).z == pytest.approx((seen - spread.mean()) / spread.std())


def test_a_false_alarm_is_as_rare_as_it_says() -> None:
    """Of series without a trend one in twenty has p < 0.05, also where networks answer alike."""
    rng = np.random.default_rng(3)
    false = 0
    for _ in range(100):
        own = rng.random(120)[None, :] < 0.4
        answers = np.where(rng.random((3, 120)) < 0.7, own, rng.random((3, 120)) < 0.4)
        false += trend([0, 1, 2], answers.astype(np.int64)).paired_p < 0.05
    assert 1 <= false <= 13  # Binomial(100, 0.05) is above 13 once in 2000 times


def test_what_has_no_trend_is_refused() -> None:
    one = np.ones((2, 9), np.int64)
    with pytest.raises(InputError, match="a trend needs"):
        trend([0, 1], one)
    with pytest.raises(InputError, match="a trend needs"):
        trend([1, 1], np.array([[1, 0], [0, 1]]))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("labels.csv", "file,shape_class\na.png,bear\n", "no column texture_class"),
        ("labels.csv", LABELS + "b.png,bear,cow\n", r"labels.csv:3: .* no class 'cow'"),
        ("labels.csv", "file,shape_class,texture_class\n", "no rows"),
        ("class16_to_imagenet.csv", MAPPING + "dog,1000\n", r"imagenet.csv:6: imagenet_index"),
    ],
)
def test_a_folder_that_is_none_is_refused(folder: Path, name: str, text: str, said: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=said):
        CueConflicts.read(folder)
    with pytest.raises(InputError, match="cannot read"):
        CueConflicts.read(folder / "nowhere")


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 24 of the real pictures."""
    if not CUES.exists():
        pytest.skip("the cue-conflict pictures are not here")
    folder = tmp_path_factory.mktemp("cues")
    (folder / "class16_to_imagenet.csv").symlink_to(CUES / "class16_to_imagenet.csv")
    head, *lines = (CUES / "labels.csv").read_text().splitlines()
    chosen = random.Random(0).sample(lines, 24)
    (folder / "labels.csv").write_text("\n".join([head, *chosen]) + "\n")
    for line in chosen:
        (folder / line.partition(",")[0]).symlink_to(CUES / line.partition(",")[0])
    return folder


def test_the_command_repeats_what_the_page_says(some: Path, tmp_path: Path) -> None:
    """On 24 of the pictures texture wins at 224 px, and the shares are possible under the recorded ones."""
    pytest.importorskip("plotly")
    page = tmp_path / "bias.html"
    command = ["plan", "bias", "--images", str(some), "--sides", "128,224", "--json"]
    said = CliRunner().invoke(app, [*command, "--report", str(page)], catch_exceptions=False)
    found = json.loads(said.output)
    recorded = {row["side_px"]: row for row in json.loads(MEASURED.read_text())["by_side"]}
    for row in found["by_side"]:
        assert row["shape"] + row["texture"] + row["neither"] == 24
        assert row["low"] <= recorded[row["side_px"]]["shape_bias"] <= row["high"]
    small, large = found["by_side"]
    assert large["texture"] > large["shape"] and small["shape_bias"] > large["shape_bias"]
    assert found["by_phi"][0]["shape"] == large["shape"]  # 224 px is φ 0's own side
    assert [row["side_px"] for row in found["by_phi"]] == [224, 240, 260]
    assert "Plotly.newPlot" in page.read_text()


def test_bad_options_say_what_would_do(folder: Path) -> None:
    for options, said in (
        (["--phi", "7"], "the ladder has φ = 0 … 2"),
        (["--sides", "224"], "two or more different sides"),
        (["--sides", "a,b"], "numbers with commas"),
    ):
        done = CliRunner().invoke(app, ["plan", "bias", "--images", str(folder), *options])
        assert done.exit_code and said in str(done.exception) + done.output


def test_a_classifier_answers_as_the_variant_does_at_any_side() -> None:
    """At the variant's own side the logits are the backend's; at another, timm's plain model's."""
    torch = pytest.importorskip("torch")
    from adaphi.model_zoo.backends import get_backend
    from adaphi.model_zoo.backends.torch_eager import load_timm
    from adaphi.model_zoo.images import example_image
    from adaphi.model_zoo.scaling.classifier import Classifier

    variant = get_ladder(DEFAULT).variants[0]
    picture, classifier = example_image(), Classifier(variant)
    served = get_backend("torch").build(variant)(picture)
    assert np.allclose(classifier.logits(picture), served, atol=1e-3)
    x = classifier.preprocessing(160)(picture)
    assert x.shape == (1, 3, 160, 160)
    with torch.inference_mode():
        plain = load_timm(variant)(torch.from_numpy(x)).numpy()[0]
    assert np.allclose(classifier.logits(picture, 160), plain, atol=1e-3)
