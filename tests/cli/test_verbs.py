"""Every command from beginning to end."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import vertebra
from vertebra import tasks
from vertebra.cli import VERBS, main

TINY = ("--data.image_size=32", "--data.workers=0", "--model.backbone=resnet18", "--device=cpu", "--epochs=1")


# -- no verb


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help(run_vertebra, words):
    out = run_vertebra(*words)
    assert all(f"  {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(capsys, verb):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"usage: vertebra {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_no_python_signature(capsys, verb):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert not re.search(r"\w+\(\w+: ", capsys.readouterr().out)


def test_help_lists_the_tasks(run_vertebra):
    assert f"tasks: {', '.join(tasks.names())}\n" in run_vertebra("--help")


def test_help_stands_under_each_option(capsys):
    with pytest.raises(SystemExit):
        main(["train", "classification", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "--epochs INTEGER Passes over the training images." in out
    assert "--data.image_size INTEGER Side of the square input, in pixels, or of the shorter side" in out


def test_version(run_vertebra):
    assert run_vertebra("--version") == f"vertebra {vertebra.__version__}\n"


def test_help_imports_nothing_heavy():
    program = "import sys, vertebra.cli; vertebra.cli.main([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "vertebra", "trian"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("vertebra: no command is called 'trian'")


def test_a_reader_that_has_had_enough():
    """As with `vertebra models | head -1`."""
    words = [sys.executable, "-m", "vertebra", "models", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


# -- train


def test_a_run_folder_is_complete(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "best.safetensors",
        "config.yaml",
        "evaluation.json",
        "last.ckpt",
        "metrics.csv",
        "report.html",
        "tensorboard",
    }
    assert list((trained / "tensorboard").glob("events.*"))
    assert (trained / "metrics.csv").read_text().startswith("epoch,train/loss,val/")
    entries = json.loads((trained / "evaluation.json").read_text())
    assert entries["classes"] == ["cat", "dog"]
    assert len(entries["images"]) == 2


def test_the_config_of_a_run_is_complete(trained):
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["task"] == "classification"
    assert config["model"]["backbone"] == "resnet18"
    assert config["data"]["image_size"] == 32
    assert config["seed"] == 0


def test_train_prints_what_it_does(trained):
    run, photos = trained, trained.parent / "photos"
    out = (trained.parent / "output.txt").read_text()
    assert "resnet18: 11,177,538 parameters, 11,177,538 trained" in out
    assert f"{photos}: 8 train, 2 val images in 2 classes" in out
    assert "20% of each class set apart with seed 0" in out
    assert "epoch 1/1" in out
    assert f"next: vertebra predict {run / 'best.safetensors'} IMAGE --save=out/" in out


def test_train_without_a_folder_numbers_its_runs(tmp_path, photos, run_vertebra, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        run_vertebra("train", f"--data.path={photos}", *TINY)
        assert (tmp_path / "runs" / f"classification-resnet18-{number}" / "best.safetensors").is_file()


def test_train_on_the_shapes_in_grey(tmp_path, run_vertebra, few_shapes):
    words = ["--data.path=shapes", f"--output={tmp_path / 'run'}", *TINY, "--data.channels=1", "--data.workers=1"]
    out = run_vertebra("train", "classification", *words)
    assert "shapes: 12 train, 6 val images in 6 classes" in out
    assert vertebra.load(tmp_path / "run").task.preprocess.channels == 1


# -- evaluate


def test_evaluate_repeats_the_metrics_of_training(trained, run_vertebra, tmp_path):
    out = run_vertebra("evaluate", trained, "--data.workers=0", f"--save={tmp_path / 'out'}")
    assert "top-1 accuracy" in out
    again = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    first = json.loads((trained / "evaluation.json").read_text())
    assert again["images"] == first["images"]
    assert again["metrics"] == first["metrics"]
    assert (tmp_path / "out" / "report.html").is_file()


def test_evaluate_a_test_split(trained, photos, run_vertebra, tmp_path):
    """Of a folder with train/ and test/."""
    for split, numbers in (("train", (0, 1)), ("test", (2, 3, 4))):
        for name in ("cat", "dog"):
            for i in numbers:
                path = tmp_path / "data" / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes((photos / name / f"{i}.png").read_bytes())
    words = ["evaluate", trained, f"--data.path={tmp_path / 'data'}", f"--save={tmp_path / 'out'}"]
    for split, note in (("test", False), ("val", True)):
        out = run_vertebra(*words, f"--data.split={split}")
        assert len(json.loads((tmp_path / "out" / "evaluation.json").read_text())["images"]) == 6
        assert ("note: no val split: the test split is used as val" in out) == note


def test_evaluate_prints_every_class(trained, photos, run_vertebra):
    out = run_vertebra("evaluate", trained / "best.safetensors", f"--data.path={photos}", "--data.split=train")
    assert "images" in out
    for name in ("cat", "dog"):
        assert any(line.split()[:1] == [name] for line in out.splitlines())


def test_data_not_trained_on_is_evaluated_whole(trained, photos, run_vertebra, tmp_path):
    out = run_vertebra("evaluate", trained, f"--data.path={photos}", f"--save={tmp_path / 'whole'}")
    assert "note: no val split: all of train is evaluated" in out
    run_vertebra("evaluate", trained, f"--data.path={photos}", "--data.val_share=0.4", f"--save={tmp_path / 'part'}")
    counts = [len(json.loads((tmp_path / n / "evaluation.json").read_text())["images"]) for n in ("whole", "part")]
    assert counts == [10, 4]


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--data.batch_size=0", "data.batch_size is 0; it must be 1 or more"),
        ("--data.workers=-1", "data.workers is -1; it must lie between 0 and 32"),
        ("--data.seed=3", "--data.seed has no effect: no part of"),
        ("--data.split=test", "test"),
        ("--save={file}", "is a file; name a folder"),
    ],
)
def test_evaluate_refuses_options_of_no_use(trained, photos, complaint, tmp_path, option, sentence):
    (tmp_path / "file").touch()
    words = [option.format(file=tmp_path / "file"), f"--data.path={photos}"]
    assert sentence in complaint("evaluate", trained, *words)


def test_evaluate_of_fewer_classes_in_another_order(trained, photos, run_vertebra, tmp_path):
    """The labels are the model's, whatever folders the data has."""
    lines = [f"photos/dog/{i}.png,dog,val" for i in range(5)] + ["photos/cat/0.png,cat,val"]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *lines]))
    run_vertebra("evaluate", trained, f"--data.path={tmp_path / 'list.csv'}", f"--save={tmp_path / 'out'}")
    rows = json.loads((tmp_path / "out" / "evaluation.json").read_text())["images"]
    assert [row["target"] for row in rows] == ["dog"] * 5 + ["cat"]


# -- predict


def test_predict_prints_each_prediction(trained, photos, run_vertebra):
    out = run_vertebra("predict", trained, photos / "cat" / "0.png", str(photos / "dog" / "*.png"), "--top=1")
    lines = out.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith(f"{photos / 'cat' / '0.png'}  ")
    assert lines[0].split()[1] in ("cat", "dog")
    assert 0.5 <= float(lines[0].split()[2]) <= 1


def test_predict_saves(trained, photos, run_vertebra, tmp_path):
    out = tmp_path / "out"
    run_vertebra("predict", trained, photos, f"--save={out}", "--embeddings")
    rows = json.loads((out / "predictions.json").read_text())
    assert [row["path"] for row in rows] == [str(p) for p in sorted(photos.rglob("*.png"))]
    names = [row["drawn"] for row in rows]
    assert len(set(names)) == 10  # cat/0.png and dog/0.png do not overwrite each other
    for name in names:
        Image.open(out / name).verify()
    head, *lines = (out / "predictions.csv").read_text().splitlines()
    assert head == "path,class,probability"
    assert len(lines) == 10
    for row in rows:
        assert sum(entry["probability"] for entry in row["classes"]) == pytest.approx(1, abs=1e-5)
    saved = np.load(out / "embeddings.npz")
    assert saved["embeddings"].shape == (10, 512)
    assert saved["paths"].tolist() == [row["path"] for row in rows]


def test_predict_writes_the_predictions_of_the_model(trained, photos, run_vertebra, tmp_path):
    run_vertebra("predict", trained, photos / "cat", f"--save={tmp_path / 'out'}")
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    model = vertebra.create("classification", backbone="resnet18", classes=["cat", "dog"], weights=trained)
    model.preprocess = vertebra.load(trained).task.preprocess
    for row, prediction in zip(rows, model.predict([row["path"] for row in rows]), strict=True):
        for entry in row["classes"]:
            want = float(prediction.probabilities[model.classes.index(entry["class"])])
            assert entry["probability"] == pytest.approx(want, abs=1e-4)


def test_embeddings_need_a_folder(trained, photos, complaint):
    assert "--embeddings needs --save=FOLDER" in complaint("predict", trained, photos, "--embeddings")
    assert "--top is 0; it must be 1 or more" in complaint("predict", trained, photos, "--top=0")


# -- models


def test_models(run_vertebra):
    out = run_vertebra("models")
    assert "resnet18" in out
    assert "11,689,512" in out  # the published number


def test_models_in_json_can_be_filtered_and_sorted(run_vertebra):
    entries = json.loads(run_vertebra("models", "resnext", "--json", "--sort=parameters"))
    assert entries
    assert all("resnext" in entry["name"] for entry in entries)
    counts = [entry["parameters"] for entry in entries]
    assert counts == sorted(counts)


def test_models_of_a_family_by_cost_and_accuracy(run_vertebra):
    entries = json.loads(run_vertebra("models", "--family=cyclemlp", "--sort=macs", "--json"))
    names = [f"cyclemlp_b{i}" for i in range(1, 6)]
    assert [entry["name"] for entry in entries] == names
    assert (entries[1]["top1"], entries[1]["top1_source"]) == (81.6, "authors' README")
    entries = json.loads(run_vertebra("models", "--family=cyclemlp", "--sort=top1", "--json"))
    assert [entry["name"] for entry in entries] == names[::-1]


def test_models_lists_weights(run_vertebra):
    assert "licence" in run_vertebra("models", "resnet18", "--weights")


def test_unknown_models(complaint):
    assert "no backbone's name contains 'resnet19'. Did you mean 'resnet18'?" in complaint("models", "resnet19")
    assert "no family is called 'resent'" in complaint("models", "--family=resent")


# -- methods


def test_methods(run_vertebra):
    out = run_vertebra("methods")
    assert max(map(len, out.splitlines())) <= 80
    lines = [line.split() for line in out.splitlines()]
    for task in tasks.names():
        for method in tasks.methods(task):
            assert any(words[:2] == [task, method] for words in lines)
    assert "arXiv" in out


def test_methods_in_json(run_vertebra):
    methods = json.loads(run_vertebra("methods", "--json"))
    assert {(method["task"], method["method"]) for method in methods} == {
        (task, method) for task in tasks.names() for method in tasks.methods(task)
    }
    (retinanet,) = [method for method in methods if method["method"] == "retinanet"]
    assert retinanet["source"]
    assert {"torchvision", "detectron2", "mmdet"} <= set(retinanet["reads"])


def test_methods_of_a_task(run_vertebra, complaint):
    methods = json.loads(run_vertebra("methods", "keypoints", "--json"))
    assert {method["task"] for method in methods} == {"keypoints"}
    assert "Did you mean 'detection'?" in complaint("methods", "detecton")


# -- data


def test_data_of_a_folder(photos, run_vertebra):
    Image.new("RGB", (100, 60)).save(photos / "cat" / "large.png")
    out = run_vertebra("data", photos)
    assert "height: 24 to 60 pixels, median 24" in out
    assert "width: 32 to 100 pixels, median 32" in out
    assert "11 images read, 0 problems" in out


def test_data_finds_copies(photos, run_vertebra):
    content = (photos / "cat" / "0.png").read_bytes()
    (photos / "dog" / "copy.png").write_bytes(content)
    out = run_vertebra("data", photos)
    (line,) = [line for line in out.splitlines() if line.startswith("problem: ")]
    assert "the same pixels, but classes" in line
    assert "copy.png" in line
    assert str(photos / "cat" / "0.png") in line


def test_images_of_other_shapes_are_no_copies(photos, run_vertebra):
    Image.new("RGB", (10, 20)).save(photos / "cat" / "tall.png")
    Image.new("RGB", (20, 10)).save(photos / "cat" / "wide.png")
    assert "0 problems" in run_vertebra("data", photos)


def test_data_notes_uneven_classes(photos, run_vertebra):
    for i in range(1, 5):
        (photos / "dog" / f"{i}.png").unlink()
    assert "classes are uneven (1 to 4 images, fewest 'dog'): consider --balance" in run_vertebra("data", photos)


@pytest.mark.parametrize("form", ["folder", "coco"])
def test_data_writes_the_shapes(tmp_path, run_vertebra, few_shapes, form):
    folder = tmp_path / "shapes"
    assert f"the built-in shapes are in {folder}" in run_vertebra(
        "data", "shapes", f"--save={folder}", f"--format={form}"
    )
    assert len(list(folder.rglob("*.png"))) == (18 if form == "folder" else 36)
    if form == "folder":
        out = run_vertebra("data", folder)
        assert "18 images read, 0 problems" in out


def test_data_writes_only_the_shapes(photos, complaint):
    assert "vertebra data shapes --save=FOLDER" in complaint("data", photos, "--save=out")


# -- verify


def test_verify_counts(run_vertebra):
    out = run_vertebra("verify", "resnet18", "--counts")
    assert "11,689,512" in out
    assert "counts equal" in out
    assert "1 of 1 backbones as in the ledger" in out


def test_verify_without_a_reference_of_its_own(run_vertebra, complaint):
    assert "resnet18" in complaint("verify", "resnet19")


def test_verify_notices_a_difference(monkeypatch, capsys):
    import vertebra.backbones.resnet as family

    config = family.VARIANTS["resnet18"]
    monkeypatch.setitem(family.VARIANTS, "resnet18", family.VARIANTS["resnet34"])
    assert config != family.VARIANTS["resnet18"]
    assert main(["verify", "resnet18", "--counts"]) == 2
    out, error = capsys.readouterr()
    assert "problem: resnet18: the ledger has 11,689,512 parameters" in out
    assert error.startswith("vertebra: this machine's numbers differ")


def test_predict_takes_several_folders(trained, photos, run_vertebra):
    out = run_vertebra("predict", trained, photos / "cat", photos / "dog")
    assert len(out.splitlines()) == 10
    assert all(Path(line.split()[0]).is_file() for line in out.splitlines())
