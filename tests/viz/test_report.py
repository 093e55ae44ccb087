"""The HTML report needs nothing but itself."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from vertebra import tasks
from vertebra.data.catalogue import Sample
from vertebra.metrics.classification import ClassificationMetrics
from vertebra.metrics.evaluation import Evaluation
from vertebra.structures import Prediction, Preprocess, Target
from vertebra.viz import report

CLASSES = ("<b>cat</b> & co", 'dog "x"', "$\\emu$")
HISTORY = [
    {"epoch": e, "train/loss": 1 / e, "val/loss": 1.1 / e, "val/top1": 0.5, "lr": 0.1, "seconds": 2.0, "waiting": 0.25}
    for e in (1, 2)
]
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Every tag and attribute of a page; complains of tags that are not closed."""

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
    """A task, its evaluation on four pictures of which two are answered wrongly, and the pictures."""
    task = tasks.create("classification", backbone="resnet18", classes=CLASSES, preprocess=Preprocess(size=(32, 32)))
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.1, 0.6, 0.3]])
    truths = [0, 1, 2, 2]
    samples = [
        Sample(torch.full((3, 10, 10 + i), i, dtype=torch.uint8), Target(label=torch.tensor(t), path=f"in/<{i}>.png"))
        for i, t in enumerate(truths)
    ]
    metrics = ClassificationMetrics(3)
    metrics.update([Prediction(probabilities=p) for p in probabilities], [s.target for s in samples])
    rows = [
        {
            "index": i,
            "path": samples[i].target.path,
            "truth": truth,
            "answer": int(p.argmax()),
            "probability": float(p.max()),
            "truth_probability": float(p[truth]),
        }
        for i, (p, truth) in enumerate(zip(probabilities, truths, strict=True))
    ]
    return task, Evaluation(metrics.compute(), rows, ["in/<x>.png: broken & empty."]), samples


def written(path, made, **options) -> str:
    task, evaluation, samples = made
    report.write(path, title="cats & <dogs>", task=task, evaluation=evaluation, samples=samples, **options)
    return path.read_text(encoding="utf-8")


def test_it_is_whole(tmp_path, made):
    text = written(tmp_path / "r.html", made, history=HISTORY, config="epochs: 2 # <&>\n", broken=made[1].broken)
    page = Page(text)
    for heading in ("Training", "Confusion matrix", "Calibration", "Classes", "Most wrong", "Timings", "Config"):
        assert heading in page.text
    assert "4 pictures, 3 classes." in page.text
    assert "0.5000top-1 accuracy" in page.text
    assert "Unreadable pictures (1)" in page.text
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


def test_its_pictures_can_be_decoded(tmp_path, made):
    page = Page(written(tmp_path / "r.html", made, history=HISTORY))
    sources = [value.partition(",")[2] for _, key, value in page.attributes if key == "src"]
    assert len(sources) == 5  # curves, confusion, calibration, two mistakes
    for source in sources:
        Image.open(io.BytesIO(base64.b64decode(source))).verify()


def test_names_are_escaped(tmp_path, made):
    text = written(tmp_path / "r.html", made, broken=made[1].broken)
    assert "<b>cat</b>" not in text
    assert "&lt;b&gt;cat&lt;/b&gt; &amp; co" in text
    assert "<title>cats &amp; &lt;dogs&gt;</title>" in text
    assert "in/&lt;x&gt;.png: broken &amp; empty." in text
    page = Page(text)
    assert all(name in page.text for name in CLASSES)
    assert f"{CLASSES[0]}, is {CLASSES[1]}" in [value for _, key, value in page.attributes if key == "alt"]


def test_the_most_wrong_come_first(tmp_path, made):
    text = written(tmp_path / "r.html", made)
    figures = re.findall(r"<figure>.*?</figure>", text)
    assert ["&lt;1&gt;.png" in figures[0], "&lt;3&gt;.png" in figures[1]] == [True, True]
    assert len(figures) == 2


def test_without_history_and_mistakes(tmp_path, made):
    task, evaluation, samples = made
    right = Evaluation(evaluation.metrics, [r for r in evaluation.rows if r["answer"] == r["truth"]])
    text = written(tmp_path / "r.html", (task, right, samples))
    assert "No picture was answered wrongly." in text
    assert "Training" not in text
    assert "Unreadable" not in text


def test_answers_that_are_not_numbers(tmp_path, made):
    task, evaluation, samples = made
    rows = [{**row, "probability": float("nan"), "truth_probability": float("nan")} for row in evaluation.rows]
    assert "Most wrong" in written(tmp_path / "r.html", (task, Evaluation(evaluation.metrics, rows), samples))


def test_one_epoch_and_many_classes(tmp_path):
    classes = [f"class {i}" for i in range(45)]
    task = tasks.create("classification", backbone="resnet18", classes=classes, preprocess=Preprocess(size=(32, 32)))
    metrics = ClassificationMetrics(45)
    metrics.update([Prediction(probabilities=torch.eye(45)[0])], [Target(label=torch.tensor(0))])
    row = {"index": 0, "path": "", "truth": 0, "answer": 0, "probability": 1.0, "truth_probability": 1.0}
    evaluation = Evaluation(metrics.compute(), [row])
    samples = [Sample(torch.zeros(3, 4, 4, dtype=torch.uint8), Target(label=torch.tensor(0)))]
    text = written(tmp_path / "r.html", (task, evaluation, samples), history=HISTORY[:1])
    assert "class 44" in text


def test_as_json(made):
    found = json.loads(report.as_json(made[1], CLASSES))
    assert found["classes"] == list(CLASSES)
    assert found["metrics"]["top1"] == 0.5
    assert found["answers"][1]["truth"] == CLASSES[1]
    assert found["answers"][1]["answer"] == CLASSES[0]
    assert found["broken"] == made[1].broken
