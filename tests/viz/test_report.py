"""The HTML report is whole and self-contained."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from vertebra import kinds
from vertebra.data.catalogue import Sample
from vertebra.metrics.classification import ClassificationMetrics
from vertebra.metrics.evaluation import Evaluation
from vertebra.structures import Prediction, Target
from vertebra.viz import plots, report

pytestmark = pytest.mark.usefixtures("real_plots")

CLASSES = ("<b>cat</b> & co", 'dog "x"', "$\\emu$")
HISTORY = [
    {"epoch": e, "train/loss": 1 / e, "val/loss": 1.1 / e, "val/top1": 0.5, "lr": 0.1, "seconds": 2.0, "waiting": 0.25}
    for e in (1, 2)
]
CATEGORY = kinds.find("category")
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Every tag and attribute of a page; fails if a tag is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, key, value) for key, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def made():
    """The evaluation of four images, of which two are predicted wrongly, and their samples."""
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.1, 0.6, 0.3]])
    targets = [0, 1, 2, 2]
    samples = [
        Sample(torch.full((3, 10, 10 + i), i, dtype=torch.uint8), Target(label=torch.tensor(t), path=f"in/<{i}>.png"))
        for i, t in enumerate(targets)
    ]
    return evaluated(probabilities, samples, CLASSES), samples


def evaluated(probabilities, samples, classes) -> Evaluation:
    metrics = ClassificationMetrics(len(classes))
    predictions, targets = [Prediction(probabilities=p) for p in probabilities], [s.target for s in samples]
    metrics.update(predictions, targets)
    rows = [
        {"index": i, "path": target.path, **metrics.row(prediction, target)}
        for i, (prediction, target) in enumerate(zip(predictions, targets, strict=True))
    ]
    unreadable = ["in/<x>.png: damaged & empty."]
    return Evaluation(metrics.compute(), rows, unreadable, classes=tuple(classes), names=metrics.names)


def written(path, made, **options) -> str:
    evaluation, samples = made
    report.write(path, title="cats & <dogs>", kind=CATEGORY, evaluation=evaluation, samples=samples, **options)
    return path.read_text(encoding="utf-8")


def test_it_is_whole(tmp_path, made):
    text = written(tmp_path / "r.html", made, history=HISTORY, config="epochs: 2 # <&>\n", problems=made[0].unreadable)
    page = Page(text)
    for heading in ("Training", "Confusion matrix", "Calibration", "Classes", "Most wrong", "Timings", "Config"):
        assert heading in page.text
    assert "4 images, 3 classes." in page.text
    assert "0.5000top-1 accuracy" in page.text
    assert "Skipped (1)" in page.text
    assert "epochs: 2 # <&>" in page.text
    assert "25.0% of the training steps' time" in page.text
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_it_needs_nothing_else(tmp_path, made):
    text = written(tmp_path / "r.html", made, history=HISTORY)
    page = Page(text)
    assert not re.search(r"https?:|//\w+\.\w+|@import|url\(", re.sub(r"base64,[\w+/=]*", "", text))
    for tag, key, value in page.attributes:
        assert tag not in ("script", "link", "iframe", "a")
        assert key not in ("href", "srcset", "onload")
        if key == "src":
            assert value.startswith("data:image/png;base64,")


def test_its_images_can_be_decoded(tmp_path, made):
    page = Page(written(tmp_path / "r.html", made, history=HISTORY))
    sources = [value.partition(",")[2] for _, key, value in page.attributes if key == "src"]
    assert len(sources) == 5  # curves, confusion, calibration, two mistakes
    for source in sources:
        Image.open(io.BytesIO(base64.b64decode(source))).verify()


def test_names_are_escaped(tmp_path, made):
    text = written(tmp_path / "r.html", made, problems=made[0].unreadable)
    assert "<b>cat</b>" not in text
    assert "&lt;b&gt;cat&lt;/b&gt; &amp; co" in text
    assert "<title>cats &amp; &lt;dogs&gt;</title>" in text
    assert "in/&lt;x&gt;.png: damaged &amp; empty." in text
    page = Page(text)
    assert all(name in page.text for name in CLASSES)
    assert f"{CLASSES[0]}, is {CLASSES[1]}" in [value for _, key, value in page.attributes if key == "alt"]


def test_the_most_wrong_come_first(tmp_path, made):
    text = written(tmp_path / "r.html", made)
    figures = re.findall(r"<figure>.*?</figure>", text)
    assert ["&lt;1&gt;.png" in figures[0], "&lt;3&gt;.png" in figures[1]] == [True, True]
    assert len(figures) == 2


def test_without_history_and_mistakes(tmp_path, made):
    evaluation, samples = made
    right = replace(evaluation, rows=[r for r in evaluation.rows if r["prediction"] == r["target"]])
    text = written(tmp_path / "r.html", (right, samples))
    assert "No image was predicted wrongly." in text
    assert "Training" not in text
    assert "Skipped" not in text


def test_probabilities_that_are_not_numbers(tmp_path, made):
    evaluation, samples = made
    rows = [{**row, "probability": float("nan"), "target_probability": float("nan")} for row in evaluation.rows]
    assert "Most wrong" in written(tmp_path / "r.html", (replace(evaluation, rows=rows), samples))


def test_one_epoch_and_many_classes(tmp_path):
    classes = [f"class {i}" for i in range(45)]
    samples = [Sample(torch.zeros(3, 4, 4, dtype=torch.uint8), Target(label=torch.tensor(0)))]
    evaluation = evaluated(torch.eye(45)[:1], samples, classes)
    assert "class 44" in written(tmp_path / "r.html", (evaluation, samples), history=HISTORY[:1])


def test_as_json(made):
    content = json.loads(report.as_json(made[0], CATEGORY))
    assert content["classes"] == list(CLASSES)
    assert content["metrics"]["top1"] == 0.5
    assert content["images"][1]["target"] == CLASSES[1]
    assert content["images"][1]["prediction"] == CLASSES[0]
    assert content["unreadable"] == made[0].unreadable


def test_curves_show_what_there_is():
    """Losses together, scores in the order of their names, and gaps where a number was undefined."""
    history = [
        {"epoch": 1, "train/loss": 2.0, "train/box": 1.5, "val/a": 0.1, "lr": 0.1, "val/other": 7.0},
        {"epoch": 2, "train/loss": 1.0, "train/box": 0.5, "val/a": 0.2, "lr": 0.1, "val/b": 0.4, "val/loss": 1.2},
        {"epoch": 3, "train/loss": 0.5, "train/box": 0.4, "val/a": 0.3, "lr": 0.0, "val/b": 0.5, "val/loss": 1.1},
    ]
    losses, scores, rate = plots.curves(history, {"b": "B", "a": "A", "loss": "loss", "c": "C"}).axes

    def drawn(axes) -> dict[str, list[float]]:
        return {line.get_label(): list(line.get_ydata()) for line in axes.lines}

    assert drawn(losses) == {"train/loss": [2.0, 1.0, 0.5], "train/box": [1.5, 0.5, 0.4], "val/loss": [1.2, 1.1]}
    assert list(drawn(scores).items()) == [("val/b", [0.4, 0.5]), ("val/a", [0.1, 0.2, 0.3])]
    assert list(scores.lines[0].get_xdata()) == [2, 3]
    assert drawn(rate) == {"lr": [0.1, 0.1, 0.0]}


@pytest.mark.parametrize("kind", kinds.names())
def test_metrics_without_what_the_sections_need(tmp_path, kind):
    """A task may have metrics of its own: sections that they do not fill are left out."""
    evaluation = Evaluation(
        {"iou": 0.25}, [{"index": 0, "path": "", "error": 0.0}], classes=("a",), names={"iou": "mean IoU"}
    )
    report.write(tmp_path / "r.html", title="", kind=kinds.find(kind), evaluation=evaluation, samples=[])
    text = (tmp_path / "r.html").read_text()
    noun = kinds.find(kind).noun([])
    count = f"1 {'patch' if noun == 'patches' else noun.removesuffix('s')}{', 1 class' * kinds.find(kind).has_classes}."
    assert count in text
    assert "<b>0.2500</b>mean IoU" in text
    assert "<h2>" not in text


def test_names_that_are_not_text(made, tmp_path):
    """A class folder that is not UTF-8 has such a name; plots and page show the number of the byte."""
    evaluation, samples = made
    path = tmp_path / "report.html"
    classes = ("caf\udce9", "a\nb", "c")
    report.write(path, title="x\udce9", kind=CATEGORY, evaluation=replace(evaluation, classes=classes), samples=samples)
    assert r"caf\udce9" in Page(path.read_text(encoding="utf-8")).text
