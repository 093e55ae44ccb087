"""A run of a translator: training, resuming, evaluation, prediction and its files, `vertebra data`, and mistakes."""

import json
import shutil

import pytest
import torch

import vertebra
from vertebra.cli import main
from vertebra.engine.settings import run_config
from vertebra.errors import VertebraError

WORDS = ("one", "two", "three", "four", "five", "six")
COLOURS = ("red", "green", "blue")
SMALL = ("--data.vocabulary=word", "--model.width=16", "--model.depth=1", "--data.batch_size=4", "--data.workers=0")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("".join(f"{w} {c}\t{c} {w}\n" for w in WORDS for c in COLOURS) + "odd\n")
    return path


@pytest.fixture(scope="module")
def trained(pairs):
    folder = pairs.parent / "run"
    words = ["--model.heads=2", "--model.feedforward=32", "--lr=0.02", "--epochs=2", "--logger=csv"]
    assert main(["train", "translation", f"--data.path={pairs}", f"--output={folder}", *SMALL, *words]) == 0
    return folder


def test_the_run(trained, capsys):
    config = run_config(trained)
    assert config["data"]["vocabulary"] == "word"
    assert not {"image_size", "channels", "resize", "repeats"} & config["data"].keys()
    assert not {"freeze", "layer_decay", "balance"} & config.keys()
    report = (trained / "report.html").read_text()
    assert "4 sentence pairs." in report
    assert 'class="alignment"' in report
    assert "odd" not in report
    assert "there is no tab between source and target" in report
    rows = json.loads((trained / "evaluation.json").read_text())["images"]
    assert {"target", "prediction", "exact", "error"} <= rows[0].keys()


def test_a_resumed_run_is_the_run_without_a_stop(trained, pairs, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    words = ["--model.heads=2", "--model.feedforward=32", "--lr=0.02", "--logger=csv"]
    common = ["train", "translation", f"--data.path={pairs}", *SMALL, *words]
    assert main([*common, "--epochs=3", f"--output={whole}"]) == 0

    class Stop(Exception):
        pass

    from lightning.pytorch.callbacks import Callback

    class StopAfter(Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 2:
                raise Stop

    options = {"width": 16, "depth": 1, "heads": 2, "feedforward": 32}
    settings = {"vocabulary": "word", "batch_size": 4, "workers": 0, "lr": 0.02, "epochs": 3}
    with pytest.raises(Stop):
        vertebra.train(
            "translation",
            data=pairs,
            model=options,
            output=str(stopped),
            callbacks=[StopAfter()],
            logger="csv",
            **settings,
        )
    assert main(["train", f"--resume={stopped}"]) == 0
    ours, theirs = (torch.load(f / "last.ckpt", weights_only=True)["state_dict"] for f in (whole, stopped))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_evaluate(trained, pairs, tmp_path, capsys):
    assert main(["evaluate", str(trained), f"--save={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "exact match" in out
    assert "sentence pairs" in out
    assert (tmp_path / "report.html").exists()
    assert main(["evaluate", str(trained), "--tta"]) == 2
    assert "tta has no effect on sentence pairs" in capsys.readouterr().err


def test_predict_lines(trained, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("two blue\n\nsix red\n")
    assert main(["predict", str(trained), "one red"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    out = tmp_path / "out"
    assert main(["predict", str(trained), str(tmp_path / "in.txt"), f"--save={out}"]) == 0
    lines = (out / "translations.txt").read_text().split("\n")
    assert len(lines) == 4
    assert lines[1] == lines[3] == ""
    records = json.loads((out / "predictions.json").read_text())
    assert [(record["line"], record["source"]) for record in records] == [(1, "two blue"), (3, "six red")]
    assert {"token", "source", "weight"} == records[0]["alignment"][0].keys()
    names = sorted(path.name for path in (out / "alignments").iterdir())
    assert names == ["000001-heads.png", "000001.png", "000003-heads.png", "000003.png"]
    assert "looks at" in (out / "alignments.html").read_text()
    predictions = list(vertebra.load(trained).translate(["two blue", "six red"]))
    assert [prediction.text for prediction in predictions] == [lines[0], lines[2]]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere.txt"], "nowhere.txt is not there."),
        ([" "], "there is no sentence."),
        (["a", "--engine=compiled"], "engine is compiled; models that read texts have folded and eager."),
        (["a", "--engine=onnx"], "a model for translation reads no images"),
        (["pairs.tsv"], "pairs.tsv is not there."),
        (["."], ". is a folder: give its files, such as *.txt."),
        (["a", "--threshold=0.5"], "--threshold is for models that read images; "),
        (["a", "--batch_size=0"], "--batch_size is 0; it must be 1 or more."),
        (["a " * 2000, "--strict"], "line 1 has 2,000 tokens, more than 1,024"),
    ],
)
def test_mistakes_in_prediction(trained, words, sentence, capsys):
    assert main(["predict", str(trained), *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_table_is_not_taken_for_sentences(trained, pairs, capsys):
    assert main(["predict", str(trained), str(pairs)]) == 2
    assert (
        f"{pairs} is a table: give its texts alone, a line each, such as `cut -f1 pairs.tsv |"
        in capsys.readouterr().err
    )
    with pytest.raises(VertebraError, match="texts is None; give a sequence of texts"):
        vertebra.load(trained).translate(None)


def test_auto_and_options_of_the_search(trained, capsys):
    assert main(["predict", str(trained), "two blue", "--engine=auto", "--model.beam=1"]) == 2
    assert "engine is auto" in capsys.readouterr().err
    assert main(["predict", str(trained), "two blue", "--model.beam=1"]) == 0
    assert main(["predict", str(trained), "two blue", "--engine=auto"]) == 0


def test_images_and_sentences_are_not_confused(trained, pairs, tmp_path, capsys):
    with pytest.raises(VertebraError, match="a model for translation reads sentences: give them to `translate`"):
        vertebra.load(trained).predict("a.png")
    classifier = vertebra.create("classification", backbone="resnet18", classes=2)
    from vertebra.engine import checkpoint

    checkpoint.save(classifier, tmp_path / "c.safetensors")
    with pytest.raises(VertebraError, match="a model for classification reads images: give them to `predict`"):
        vertebra.load(tmp_path / "c.safetensors").translate(["a"])
    for option in ("--data.image_size=32", "--data.resize=fit", "--data.repeats=2"):
        assert main(["train", "translation", f"--data.path={pairs}", option]) == 2
    with pytest.raises(VertebraError, match=r"data.image_size has no effect in translation: leave it out"):
        vertebra.train("translation", data=pairs, image_size=32)


def test_data(pairs, tmp_path, capsys):
    shutil.copy(pairs, tmp_path / "a.tsv")
    with (tmp_path / "a.tsv").open("a") as file:
        file.write("one red\tsomething else\n")
    assert main(["data", str(tmp_path / "a.tsv")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "19 sentence pairs read, 2 problems" in out
    assert "the same source, but other targets" in out
    assert main(["data", str(pairs), "--save=sheet.png"]) == 2
    assert "of which there is no contact sheet" in capsys.readouterr().err
