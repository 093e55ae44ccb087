"""What a run that is resumed checks: its data, its settings, and that its state is whole."""

import copy
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import vertebra
from vertebra import kinds, tasks
from vertebra.data.catalogue import Catalogue
from vertebra.engine import resume, state
from vertebra.engine.resume import StoppedRun
from vertebra.errors import VertebraError
from vertebra.structures import KeypointSchema

QUICK = {"epochs": 2, "image_size": 8, "workers": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def few(tmp_path_factory, photos) -> Path:
    """Eight training and four val images of `photos`."""
    folder = tmp_path_factory.mktemp("few") / "few"
    for split, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                shutil.copy(photos / split / name / f"{i}.png", folder / split / name)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, few) -> Path:
    """A run of two epochs with everything that a state can hold. Not to be written to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "__path__", [*tasks.__path__, str(Path(__file__).parent / "tasks")])
        folder = tmp_path_factory.mktemp("trained") / "run"
        return vertebra.train("brightness", data=few, output=folder, ema=0.9, patience=5, **QUICK).folder


@pytest.fixture
def run(tmp_path, trained, brightness) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def resumed(run: Path, data: Path, **changes) -> str:
    """What resuming the run for a third epoch says."""
    with pytest.raises(VertebraError) as error:
        vertebra.train("brightness", data=data, resume=run, epochs=3, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


# -- the data


def test_other_classes_are_refused(tmp_path, few, run):
    data = Path(shutil.copytree(few, tmp_path / "renamed"))
    for split in ("train", "val"):
        (data / split / "cat").rename(data / split / "zebra")
    said = resumed(run, data)
    assert said.startswith(
        "the data has classes dog, zebra; the run was trained on cat, dog, in this order: restore the"
    )
    assert f"--weights={run / 'best.safetensors'}" in said
    for split in ("train", "val"):
        shutil.copytree(data / split / "dog", data / split / "cat")
    assert resumed(run, data).startswith("the data has classes cat, dog, zebra; the run was trained on cat, dog")


def stopped(**facts) -> StoppedRun:
    common = {"fixed": {}, "model": {}, "classes": ["a", "b"], "images": {"train": 3}}
    return StoppedRun(Path("run/last.ckpt"), common | facts, 1)


def test_of_a_thousand_classes_the_first_difference_is_named():
    before, now = [f"class {i}" for i in range(1000)], [f"class {i}" for i in range(1001) if i != 3]
    with pytest.raises(VertebraError) as error:
        stopped(classes=before).check_data(kinds.find("category"), Catalogue("x", "folder", tuple(now), {}))
    assert str(error.value).startswith(
        "the data has 1000 classes, number 3 is 'class 4'; the data that the run was trained on has 1000 classes, "
        "number 3 is 'class 3', in this order"
    )


def test_another_order_of_the_classes_is_refused():
    with pytest.raises(VertebraError, match="the data has classes b, a; the run was trained on a, b, in this order"):
        stopped().check_data(kinds.find("category"), Catalogue("x", "folder", ("b", "a"), {}))


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        (
            KeypointSchema(("nose", "tail"), (), (0, 1)),
            "the data has keypoints names nose, tail; the run was trained on",
        ),
        (KeypointSchema(("nose", "ear"), (), (1, 0)), r"has keypoints flip_indices 1, 0; the run was trained on 0, 1"),
    ],
)
def test_other_keypoints_are_refused(schema, sentence):
    trained = {"names": ["nose", "ear"], "skeleton": [], "flip_indices": [0, 1], "sigmas": []}
    catalogue = Catalogue("x", "coco", ("a", "b"), {}, keypoints=schema)
    with pytest.raises(VertebraError, match=sentence):
        stopped(model={"keypoints": trained}).check_data(kinds.find("keypoints"), catalogue)


def test_another_number_of_images_is_said(tmp_path, few, run, capsys):
    data = Path(shutil.copytree(few, tmp_path / "more"))
    shutil.copy(data / "train" / "cat" / "0.png", data / "train" / "cat" / "another.png")
    vertebra.train("brightness", data=data, resume=run, epochs=3)
    assert (
        "9 train images, 8 when the run was stopped: its result is not that of a run without" in capsys.readouterr().out
    )


# -- the settings


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": {"method": "means", "width": 8, "head": {"bias": True}}}, "model.width is 8 and was 4, which a run"),
        ({"model": {"method": "medians", "width": 4}}, "model.method is 'medians' and was 'means', which a run"),
        ({"ema": 0.0}, "ema is False and was True"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd' and was 'adamw'"),
    ],
)
def test_an_edited_config_is_refused(few, run, change, sentence):
    path = run / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    assert resumed(run, few).startswith(sentence)


def test_other_channels_are_refused(few, run):
    assert resumed(run, few, channels=1).startswith("data.channels is 1 and was 3, which a run that is resumed cannot")


# -- the state


def test_a_state_that_is_cut_off(few, run):
    content = (run / "last.ckpt").read_bytes()
    for share in (0.0, 0.3, 0.9, 0.999):
        (run / "last.ckpt").write_bytes(content[: int(share * len(content))])
        assert "last.ckpt is " in resumed(run, few)


def test_flipped_bits_are_noticed(run):
    """Wherever they are in the content of a member; without any, the state is whole."""
    path = run / "last.ckpt"
    state.check_whole(path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = [content.index(archive.read(m)) + i for m in archive.infolist() for i in range(0, m.file_size, 997)]
    for position in members:
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(VertebraError, match=r"last\.ckpt is damaged \(the checksum of .* in it is wrong\)"):
            state.check_whole(path)


def test_a_compressed_state_is_refused(few, run):
    path = run / "last.ckpt"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content + bytes(10_000_000 if name.endswith("data.pkl") else 0))
    assert "bytes that unpack to" in resumed(run, few)


GONE = object()


def changed(content: dict, path: tuple, value: object) -> dict:
    """A copy of a state with another value at a path of keys; without it for GONE."""
    content = copy.deepcopy(content)
    part = content
    for key in path[:-1]:
        part = part[key]
    if value is GONE:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return content


HISTORY = ("callbacks", "RunHistory")
OPTIMIZER = ("optimizer_states", 0)
PROGRESS = ("loops", "fit_loop", "epoch_progress", "current")
CHANGES = [
    *((path, GONE) for path in (("state_dict",), ("loops",), ("callbacks",), ("epoch",), ("unreadable",))),
    *((path, GONE) for path in (("optimizer_states",), ("lr_schedulers",), ("current_model_state",), PROGRESS)),
    *((path, GONE) for path in (("callbacks", "Facts"), HISTORY, (*HISTORY, "history"), ("averaging_state",))),
    (("state_dict", "task.head.bias"), GONE),
    (("state_dict", "task.head.bias"), torch.zeros(3)),
    (("state_dict", "task.head.bias"), torch.zeros(2, dtype=torch.int64)),
    (("state_dict", "task.head.bias"), [0.0, 0.0]),
    (("state_dict", "task.more"), torch.zeros(3)),
    (("current_model_state", "task.head.bias"), torch.zeros(1).expand(100_000)),
    (("epoch",), -1),
    (("epoch",), 10**30),
    (("epoch",), True),
    (("epoch",), 0),
    (("pytorch-lightning_version",), "x"),
    (("unreadable",), [3]),
    (("callbacks",), "x"),
    (("callbacks", "Facts", "classes"), {"cat": 1}),
    (("callbacks", "Facts", "model", "width"), torch.zeros(3)),
    (("callbacks", "Patience{'monitor': 'val/score', 'mode': 'max'}", "wait_count"), "x"),
    ((*HISTORY, "history"), []),
    ((*HISTORY, "history", 1, "train/loss"), "x"),
    ((*HISTORY, "best", "score"), "x"),
    ((*HISTORY, "best"), {}),
    ((*PROGRESS, "completed"), -3),
    ((*PROGRESS, "completed"), "x"),
    ((*PROGRESS, "reset"), 3),
    ((*OPTIMIZER, "state", 0, "exp_avg"), torch.zeros(3)),
    ((*OPTIMIZER, "state", 0, "exp_avg"), GONE),
    ((*OPTIMIZER, "state", 99), {}),
    ((*OPTIMIZER, "param_groups"), []),
    ((*OPTIMIZER, "param_groups", 0, "params"), [7]),
    (("lr_schedulers", 0, "last_epoch"), "x"),
    (("lr_schedulers", 0, "optimizer"), 3),
    (("lr_schedulers", 0, "base_lrs"), [0.1] * 7),
]


def test_a_state_of_another_form(few, run, monkeypatch):
    monkeypatch.setattr("vertebra.engine.train._finish", lambda *_: SimpleNamespace(metrics={}))
    content = torch.load(run / "last.ckpt", weights_only=True)
    for path, value in CHANGES:
        torch.save(changed(content, path, value), run / "last.ckpt")
        said = resumed(run, few)
        assert said.startswith(f"{run / 'last.ckpt'} is damaged ("), (path, value, said)
        assert len(said) < 500, (path, value, said)
    for other in ([1, 2], "x", torch.zeros(3)):
        torch.save(other, run / "last.ckpt")
        assert "last.ckpt is damaged (the content is " in resumed(run, few)
    torch.save(content, run / "last.ckpt")
    assert len(vertebra.train("brightness", data=few, resume=run, epochs=3).history) == 3


def test_no_file_that_a_state_names_is_removed(few, run):
    content = torch.load(run / "last.ckpt", weights_only=True)
    (key,) = [key for key in content["callbacks"] if key.startswith("ModelCheckpoint")]
    (run / "mine.txt").write_text("x")
    content["callbacks"][key]["best_model_path"] = str(run / "mine.txt")
    torch.save(content, run / "last.ckpt")
    vertebra.train("brightness", data=few, resume=run, epochs=3)
    assert (run / "mine.txt").exists()


def test_forms():
    form = {"a": int, "b": [{str: state.NUMBER}], "c": torch.zeros(2)}
    good = {"a": 1, "b": [{"x": 2.5}], "c": torch.ones(2)}
    assert state.misfit(good, form) == ""
    for key, value, reason in (
        ("a", 1.5, "the content['a'] is 1.5, not int"),
        ("a", -1, "the content['a'] is -1, not a count"),
        ("b", [{"x": 1}, {3: 1}], "the content['b'][1][3] is 1, not "),
        ("b", {}, "the content['b'] is {}, not a list"),
        ("c", torch.ones(3), "the content['c'] is [3] torch.float32, not [2] torch.float32"),
    ):
        assert state.misfit({**good, key: value}, form).startswith(reason)
    assert state.misfit({}, form) == "the content has no 'a'"
    assert resume._differing("x", 1, None) == "the data has x 1; the run was trained on None"
