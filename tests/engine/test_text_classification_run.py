"""A run of a text classifier: training, evaluation, prediction and its files, `vertebra data`, and mistakes."""

import json

import pytest

import vertebra
from vertebra.cli import main

GOOD, BAD = ("fine", "nice", "lovely"), ("awful", "dirty", "poor")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    rows = [
        f"The room {i} was {word}. We left.,{label}"
        for i in range(4)
        for label, words in (("good", GOOD), ("bad", BAD))
        for word in words
    ]
    path.write_text("\n".join(["text,label", *rows, ",good"]) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(texts):
    folder = texts.parent / "run"
    small = ["--model.width=8", "--model.hidden=8", "--data.batch_size=4", "--data.workers=0", "--lr=0.02"]
    words = [f"--data.path={texts}", f"--output={folder}", *small, "--epochs=1", "--logger=csv", "--balance"]
    assert main(["train", "text_classification", *words]) == 0
    return folder


def test_the_run(trained):
    report = (trained / "report.html").read_text()
    assert "4 texts, 2 classes." in report
    assert "Confusion matrix" in report
    assert "line 26: the text is empty" in report
    rows = json.loads((trained / "evaluation.json").read_text())["images"]
    assert {row["target"] for row in rows} == {"good", "bad"}


def test_predict(trained, tmp_path, capsys):
    assert main(["predict", str(trained), "The room was <b>.", "--top=1"]) == 0
    assert capsys.readouterr().out.split()[0] in ("good", "bad")
    (tmp_path / "in.txt").write_text("The room was fine.\n\nWe left.\n")
    assert main(["predict", str(trained), str(tmp_path / "in.txt"), f"--save={tmp_path / 'out'}"]) == 0
    assert "2 texts: classes.txt, predictions.json and attention.html in" in capsys.readouterr().out
    lines = (tmp_path / "out" / "classes.txt").read_text().split("\n")
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [lines[0], lines[2]] == [record["classes"][0]["class"] for record in records]
    assert lines[1] == ""
    assert [word["word"] for word in records[1]["words"]] == ["We", "left", "."]
    assert sum(word["weight"] for word in records[1]["words"]) == pytest.approx(1, abs=1e-5)
    page = (tmp_path / "out" / "attention.html").read_text()
    assert page.count('<p class="words">') == 2
    assert ">fine</span>" in page
    prediction = next(vertebra.load(trained).predict_texts(["We left."]))
    assert vertebra.load(trained).classes[prediction.top(1)[0][0]] == lines[2]


def test_evaluate_and_data(trained, texts, capsys):
    assert main(["evaluate", str(trained)]) == 0
    assert "top-1 accuracy" in capsys.readouterr().out
    assert main(["data", str(texts)]) == 0
    assert "24 texts read, 1 problems" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([" "], "there is no text."),
        (["a", "--threshold=0.5"], "--threshold is for models that read images; "),
        (["a", "--top=0"], "--top is 0; it must be 1 or more."),
    ],
)
def test_mistakes_in_prediction(trained, words, sentence, capsys):
    assert main(["predict", str(trained), *words]) == 2
    assert sentence in capsys.readouterr().err
