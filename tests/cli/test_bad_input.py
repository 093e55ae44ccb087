"""What users get wrong: each gets one sentence that says what, where and what to do, and nothing saved is lost."""

import contextlib
import hashlib
import json
import os
import pickle
import resource
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import vertebra
from vertebra.engine import checkpoint
from vertebra.engine.state import SafeCheckpointIO
from vertebra.errors import VertebraError
from vertebra.tasks.classification.linear import LinearClassifier

TINY = ("--data.image_size=32", "--data.workers=0", "--model.backbone=resnet18", "--device=cpu", "--epochs=1")
PNG = b"\x89PNG\r\n\x1a\n"


def bomb() -> bytes:
    """A PNG file of some hundred bytes whose header claims 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def spoil(photos: Path) -> dict[Path, str]:
    """Adds one broken image of every kind; the files and what is to be said of each."""
    whole = (photos / "cat" / "0.png").read_bytes()
    broken = {
        "cat/truncated.png": (whole[: len(whole) // 2], "cannot be decoded"),
        "cat/nothing.jpg": (b"", "the file is empty (0 bytes)"),
        "cat/zeros.png": (bytes(500), "not an image in any known format"),
        "dog/letter.jpg": (b"Dear reader,\n" * 20, "not an image in any known format, whatever its name"),
        "dog/bomb.png": (bomb(), "more than 178,956,970 pixels"),
    }
    for name, (content, _) in broken.items():
        (photos / name).write_bytes(content)
    return {photos / name: sentence for name, (_, sentence) in broken.items()}


def fingerprints(folder: Path) -> dict[str, str]:
    """Of every file in a folder, hidden ones too."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}


def copy_run(run: Path, to: Path) -> Path:
    """By links, which is quick; a run replaces its files and never writes into them."""
    to.mkdir()
    for path in run.iterdir():
        if path.is_file():
            os.link(path, to / path.name)
    return to


@contextlib.contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file can grow beyond `room` bytes, as on a disk with so much left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Code:
    """Unpickled without care, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


# -- images


def test_unreadable_images_are_listed_and_counted_and_training_goes_on(tmp_path, photos, run_vertebra):
    broken = spoil(photos)
    run = tmp_path / "run"
    out = run_vertebra("train", "classification", f"--data.path={photos}", f"--output={run}", *TINY)
    for path, sentence in broken.items():
        (line,) = [line for line in out.splitlines() if line.startswith(f"skipped: {path}: ")]
        assert sentence in line
    assert f"{len(broken)} images could not be read and were skipped" in out
    assert all(path.name in (run / "report.html").read_text() for path in broken)
    assert vertebra.load(run).classes == ("cat", "dog")


def test_unreadable_images_in_workers(tmp_path, photos, run_vertebra):
    broken = spoil(photos)
    words = [f"--data.path={photos}", f"--output={tmp_path / 'run'}", *TINY, "--data.workers=1"]
    out = run_vertebra("train", "classification", *words)
    assert f"{len(broken)} images could not be read and were skipped" in out


@pytest.mark.parametrize("workers", [0, 1])
def test_strict_stops_at_the_first_unreadable_image(tmp_path, photos, complaint, workers):
    (photos / "cat" / "nothing.jpg").touch()
    words = [f"--data.path={photos}", f"--output={tmp_path / 'run'}", *TINY, f"--data.workers={workers}", "--strict"]
    sentence = complaint("train", "classification", *words)
    assert f"{photos / 'cat' / 'nothing.jpg'}: the file is empty (0 bytes)" in sentence
    assert "without --strict" in sentence


def test_no_image_can_be_read(tmp_path, photos, complaint):
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")
    sentence = complaint("train", f"--data.path={photos}", f"--output={tmp_path / 'run'}", *TINY)
    assert "no training image can be read" in sentence
    assert str(photos) in sentence


def test_evaluate_leaves_unreadable_images_out(photos, trained, run_vertebra, complaint):
    broken = spoil(photos)
    words = ["evaluate", trained, f"--data.path={photos}", "--data.val_share=0.9", "--data.workers=0"]
    out = run_vertebra(*words)
    skipped = [line for line in out.splitlines() if line.startswith("skipped: ")]
    assert 0 < len(skipped) <= len(broken)
    assert f"{len(skipped)} images could not be read and were skipped" in out
    assert str(photos) in complaint(*words, "--strict")


def test_evaluate_without_a_readable_image(photos, trained, complaint):
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")
    sentence = complaint("evaluate", trained, f"--data.path={photos}", "--data.workers=0")
    assert "none of the 10 images can be read" in sentence
    assert str(photos) in sentence


def test_predict_leaves_unreadable_images_out(photos, trained, run_vertebra, complaint):
    broken = spoil(photos)
    out = run_vertebra("predict", trained, photos)
    for path, sentence in broken.items():
        (line,) = [line for line in out.splitlines() if line.startswith(f"skipped: {path}: ")]
        assert sentence in line
    assert f"{len(broken)} of 15 images could not be read and were skipped" in out
    assert str(min(broken)) in complaint("predict", trained, photos, "--strict")


def test_predict_of_nothing_but_unreadable_images(tmp_path, trained, complaint):
    (tmp_path / "letter.jpg").write_text("Dear reader,")
    assert "none of the images could be read" in complaint("predict", trained, tmp_path / "letter.jpg")
    assert "letter.jpg: not an image" in complaint("predict", trained, tmp_path / "letter.jpg", "--strict")


def test_predict_of_what_is_not_there(tmp_path, trained, complaint):
    assert "nope.jpg is neither a file, a folder" in complaint("predict", trained, tmp_path / "nope.jpg")
    assert f"{tmp_path} holds no images" in complaint("predict", trained, tmp_path)


def test_data_lists_unreadable_images(photos, run_vertebra):
    broken = spoil(photos)
    out = run_vertebra("data", photos)
    for path, sentence in broken.items():
        (line,) = [line for line in out.splitlines() if line.startswith(f"problem: {path}: ")]
        assert sentence in line
    assert f"10 images read, {len(broken)} problems" in out


# -- data


@pytest.mark.parametrize("verb", ["train", "data"])
def test_a_class_folder_without_images(photos, complaint, verb):
    (photos / "emu").mkdir()
    sentence = complaint(verb, *([f"--data.path={photos}"] if verb == "train" else [photos]))
    assert f"class folder {photos / 'emu'} holds no images" in sentence
    assert "add some, or remove the folder" in sentence


def test_one_class_only(photos, complaint):
    for path in (photos / "dog").iterdir():
        path.unlink()
    (photos / "dog").rmdir()
    sentence = complaint("train", f"--data.path={photos}")
    assert f"{photos} has one class only ('cat'); a classifier needs two or more" in sentence


def test_a_path_that_is_not_there(tmp_path, photos, complaint):
    sentence = complaint("train", f"--data.path={tmp_path / 'potos'}")
    assert f"{tmp_path / 'potos'} is not there. Did you mean {photos}?" in sentence


def test_a_class_that_the_model_does_not_know(photos, trained, complaint):
    (photos / "dog").rename(photos / "dogs")
    sentence = complaint("evaluate", trained, f"--data.path={photos}")
    assert "class 'dogs' that the model does not know. Did you mean 'dog'?" in sentence


def test_a_share_that_is_none(photos, complaint):
    assert "val_share is 2; it must lie between 0 and 1" in complaint("data", photos, "--val_share=2")


# -- options and configs


def test_an_option_that_does_not_exist(photos, complaint):
    assert "--epocs is not an option of vertebra train classification. Did you mean '--epochs'?" in complaint(
        "train", f"--data.path={photos}", "--epocs=3"
    )


def test_a_command_that_does_not_exist(complaint):
    assert "no command is called 'trian'" in complaint("trian")
    assert "Did you mean 'train'?" in complaint("trian")


def test_a_task_that_does_not_exist(complaint):
    assert "Did you mean 'classification'?" in complaint("train", "clasification")


def test_a_config_with_a_misspelt_key(tmp_path, photos, complaint):
    config = tmp_path / "config.yaml"
    config.write_text(f"epochs: 1\ndata:\n  path: {photos}\n  imagesize: 32\n")
    sentence = complaint("train", f"--config={config}")
    assert f"config {config}, line 4: there is no option 'data.imagesize'. Did you mean 'data.image_size'?" in sentence


@pytest.mark.parametrize("form", ["--config={}", "--config {}"])
def test_a_config_with_a_value_of_the_wrong_type(tmp_path, complaint, form):
    config = tmp_path / "config.yaml"
    config.write_text("seed: 3\ndata:\n  image_size: large\n")
    sentence = complaint("train", *form.format(config).split())
    assert f"config {config}, line 3: data.image_size is 'large'; it must be an integer." in sentence


def test_a_flag_with_a_value_of_the_wrong_type(complaint):
    assert "epochs is 'many'; it must be an integer." in complaint("train", "--epochs=many")
    assert "data.resize is 'stretch'; there are auto, crop, squash." in complaint("train", "--data.resize=stretch")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("epochs: [1\n", "not valid YAML"),
        ("- epochs\n", "is not a mapping of option names to values"),
        ("", "is not a mapping"),
        ("task: detecting\n", "task is 'detecting'; there are captioning, classification, detection, "),
    ],
)
def test_a_config_that_is_none(tmp_path, complaint, content, sentence):
    (tmp_path / "config.yaml").write_text(content)
    assert sentence in complaint("train", f"--config={tmp_path / 'config.yaml'}")


def test_a_config_that_is_not_there(tmp_path, complaint):
    assert f"{tmp_path / 'c.yaml'} cannot be read" in complaint("train", f"--config={tmp_path / 'c.yaml'}")


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--epochs=0", "epochs is 0; it must lie between 1 and 1,000,000"),
        ("--data.image_size=-1", "data.image_size is -1; it must lie between 8 and"),
        ("--data.val_share=1", "it must lie between 0 and 1"),
        ("--data.batch_size=0", "batch_size is 0; it must lie between 1 and"),
        ("--data.channels=4", "images are read as 1 (grey) or 3 (RGB)"),
        ("--clip=-1", "clip is -1; it must be 0 or more"),
        ("--lr=-1", "lr is -1; it must be 0 or more"),
        ("--seed=-1", "seed is -1; it must lie between 0 and"),
        ("--processes=-1", "processes is -1; it must lie between 0 and"),
        ("--data.workers=-1", "data.workers is -1; it must lie between 0 and"),
        ("--momentum=1", "momentum is 1; it must lie between 0 and"),
        ("--model.dropout=1.5", "dropout is 1.5; it must lie between 0 and 1"),
        ("--augment.flip=2", "augment.flip is 2; it must lie between 0 and 1"),
        ("--task=detection", "has classes of whole images but no boxes"),
        ("--model.backbone=resnet19", "Did you mean 'resnet18'?"),
        ("--resume=nowhere", "nowhere is not a run folder: it holds no config.yaml"),
    ],
)
def test_a_value_out_of_range(tmp_path, photos, complaint, flag, sentence):
    words = [f"--data.path={photos}", f"--output={tmp_path / 'run'}", *TINY, flag]
    task = [] if flag.startswith("--task") else ["classification"]
    assert sentence in complaint("train", *task, *words)


def test_a_device_that_is_missing_leaves_no_run_folder(tmp_path, photos, complaint, monkeypatch):
    monkeypatch.setattr("vertebra.engine.devices.available", lambda: ["cpu"])
    for words, sentence in (
        (["--device=cuda"], "device is 'cuda'; this machine has cpu"),
        (["--device=cuda:0,1"], "device is 'cuda:0,1'; this machine has cpu"),
        (["--device=cpu", "--precision=16-mixed"], "precision 16-mixed is for GPUs; on a CPU choose bf16-mixed."),
    ):
        folder = f"--output={tmp_path / 'run'}"
        assert sentence in complaint("train", f"--data.path={photos}", folder, *TINY, *words)
        assert not (tmp_path / "run").exists()


def test_batch_norm_of_one_value(tmp_path, photos, complaint):
    words = [f"--data.path={photos}", f"--output={tmp_path / 'run'}", *TINY, "--data.batch_size=1"]
    assert "batch norm has one value per channel only: raise data.batch_size" in complaint("train", *words)


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_a_device_that_is_none(trained, photos, complaint, verb):
    words = [photos] if verb == "predict" else []
    assert "device is 'gpu'; " in complaint(verb, trained, *words, "--device=gpu")


def test_a_file_where_a_folder_should_be(tmp_path, photos, trained, complaint):
    (tmp_path / "taken").write_text("mine")
    sentence = complaint("predict", trained, photos, f"--save={tmp_path / 'taken'}")
    assert str(tmp_path / "taken") in sentence
    assert (tmp_path / "taken").read_text() == "mine"


# -- checkpoints


def rewritten(run: Path, to: Path, **changed: torch.Tensor) -> Path:
    """The run's model file with some tensors replaced."""
    with safe_open(run / "best.safetensors", framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        save_file(state | changed, to, file.metadata())
    return to


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_a_checkpoint_of_another_architecture(tmp_path, photos, trained, complaint, verb):
    """It says that it is a resnet34 but holds a resnet18."""
    with safe_open(trained / "best.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["vertebra"])
        about["model"]["backbone"] = "resnet34"
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    path = tmp_path / "other.safetensors"
    save_file(state, path, {"vertebra": json.dumps(about)})
    sentence = complaint(verb, path, photos if verb == "predict" else f"--data.path={photos}")
    assert f"{path} does not fit this model" in sentence
    assert "missing from the checkpoint" in sentence


def test_weights_of_another_architecture(tmp_path, photos, trained, complaint):
    words = [*TINY, "--model.backbone=efficientnetv2_b0", f"--weights={trained / 'best.safetensors'}"]
    sentence = complaint("train", f"--data.path={photos}", f"--output={tmp_path / 'run'}", *words)
    assert f"{trained / 'best.safetensors'} is of another architecture" in sentence


def test_a_checkpoint_with_wrong_shapes(tmp_path, photos, trained, complaint):
    path = rewritten(trained, tmp_path / "bent.safetensors", **{"head.weight": torch.zeros(3, 512)})
    sentence = complaint("predict", path, photos)
    assert f"{path} does not fit this model" in sentence
    assert "head.weight: its shape is [3, 512], the model's [2, 512]" in sentence


@pytest.mark.parametrize("name", ["weights.pth", "last.ckpt"])
@pytest.mark.parametrize("form", ["zip", "old", "bare"])
def test_a_pickle_with_code_in_it_does_not_run(tmp_path, photos, trained, complaint, name, form):
    path, proof = tmp_path / name, tmp_path / "proof"
    content = {"state_dict": {"conv1.weight": torch.zeros(2)}, "extra": Code(proof)}
    if form == "bare":
        path.write_bytes(pickle.dumps(Code(proof)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    for words in (
        ["predict", path, photos],
        ["evaluate", path, f"--data.path={photos}"],
        ["train", f"--data.path={photos}", f"--output={tmp_path / 'run'}", *TINY, f"--weights={path}"],
    ):
        sentence = complaint(*words)
        assert str(path) in sentence
        assert "Python objects besides tensors" in sentence
        assert "save its state_dict alone" in sentence
    assert not proof.exists()
    pickle.loads(pickle.dumps(Code(proof)))  # the trap does work
    assert proof.exists()


@pytest.mark.parametrize("share", [0.00001, 0.5, 0.999])
def test_a_truncated_safetensors(tmp_path, photos, trained, complaint, share):
    whole = (trained / "best.safetensors").read_bytes()
    path = tmp_path / "half.safetensors"
    path.write_bytes(whole[: int(len(whole) * share)])
    assert f"{path} is not a whole safetensors file" in complaint("predict", path, photos)


def test_a_truncated_pytorch_file(tmp_path, photos, trained, complaint):
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "whole.pth")
    path = tmp_path / "half.pth"
    path.write_bytes((tmp_path / "whole.pth").read_bytes()[:2000])
    assert f"{path} is not a whole PyTorch checkpoint" in complaint("predict", path, photos)


def test_a_file_that_is_no_checkpoint(tmp_path, photos, complaint):
    (tmp_path / "letter.pth").write_text("Dear reader,")
    assert f"{tmp_path / 'letter.pth'} is not a checkpoint" in complaint("predict", tmp_path / "letter.pth", photos)
    assert f"{photos} holds no checkpoint" in complaint("predict", photos, photos)
    assert "there is no such file or folder" in complaint("predict", tmp_path / "gone.safetensors", photos)


def test_a_checkpoint_of_somebody_else(tmp_path, photos, complaint):
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    sentence = complaint("predict", tmp_path / "foreign.safetensors", photos)
    assert "foreign.safetensors was not written by Vertebra" in sentence
    assert "vertebra.create" in sentence


# -- what was saved stays whole


def test_a_full_disk_leaves_the_model_file_whole(tmp_path, trained):
    run = copy_run(trained, tmp_path / "run")
    before = fingerprints(run)
    task, _ = checkpoint.load(run)
    with (
        full_disk(1_000_000),
        pytest.raises(VertebraError, match=r"best\.safetensors could not be saved .*still whole"),
    ):
        checkpoint.save(task, run / "best.safetensors")
    assert fingerprints(run) == before  # no temporary file either


def test_a_full_disk_leaves_the_state_to_resume_from_whole(tmp_path, trained):
    run = copy_run(trained, tmp_path / "run")
    before = fingerprints(run)
    state = {"weights": torch.zeros(1_000_000)}
    with full_disk(1_000_000), pytest.raises(VertebraError, match=r"last\.ckpt could not be saved .*still whole"):
        SafeCheckpointIO().save_checkpoint(state, run / "last.ckpt")
    assert fingerprints(run) == before


def test_a_full_disk_in_training_leaves_what_was_saved(tmp_path, trained, complaint, run_vertebra):
    run = copy_run(trained, tmp_path / "run")
    before = fingerprints(run)
    with full_disk(1_000_000):
        sentence = complaint("train", f"--resume={run}", "--epochs=2")
    assert f"{run}/" in sentence
    assert "could not be saved" in sentence
    assert "free some space and resume. The one saved before is still whole." in sentence
    after = fingerprints(run)
    assert {name: after[name] for name in ("best.safetensors", "last.ckpt")} == {
        name: before[name] for name in ("best.safetensors", "last.ckpt")
    }
    assert after.keys() == before.keys()
    assert "epoch 2/2" in run_vertebra("train", f"--resume={run}", "--epochs=2")  # with space again, it goes on


def test_a_full_disk_while_writing_the_shapes(tmp_path, complaint, few_shapes):
    with full_disk(100):
        assert "File too large" in complaint("data", "shapes", f"--save={tmp_path / 'shapes'}")


def test_an_absurd_learning_rate(tmp_path, photos, complaint):
    run = tmp_path / "run"
    words = [f"--data.path={photos}", f"--output={run}", *TINY, "--epochs=3", "--optimizer=adamw", "--lr=1e30"]
    sentence = complaint("train", "classification", *words)
    assert "not finite" in sentence
    assert "lower lr (now 1e+30)" in sentence
    assert not [name for name in fingerprints(run) if name.endswith(".tmp")]


def test_a_loss_that_is_not_finite_loses_nothing(tmp_path, trained, complaint, monkeypatch):
    run = copy_run(trained, tmp_path / "run")
    before = fingerprints(run)
    monkeypatch.setattr(LinearClassifier, "loss", lambda *_: {"classification": torch.tensor(float("nan"))})
    sentence = complaint("train", f"--resume={run}", "--epochs=2")
    assert "the loss is not finite at epoch 2, step 1 (classification = nan)" in sentence
    assert "What was saved is kept." in sentence
    assert fingerprints(run) == before


def test_one_step_to_infinity(tmp_path, photos, complaint):
    """The only step of the run spoils the weights, so no later loss can tell."""
    run = tmp_path / "run"
    words = [f"--data.path={photos}", f"--output={run}", *TINY, "--optimizer=adamw", "--lr=1e30"]
    assert "not finite" in complaint("train", "classification", *words)


def test_a_truncated_state_to_resume_from(tmp_path, trained, complaint):
    run = copy_run(trained, tmp_path / "run")
    half = (run / "last.ckpt").read_bytes()[:100_000]
    (run / "last.ckpt").unlink()
    (run / "last.ckpt").write_bytes(half)
    assert f"{run / 'last.ckpt'}" in complaint("train", f"--resume={run}", "--epochs=2")


def test_a_state_to_resume_from_with_code_in_it(tmp_path, trained, complaint):
    run, proof = copy_run(trained, tmp_path / "run"), tmp_path / "proof"
    (run / "last.ckpt").unlink()
    torch.save({"state_dict": {}, "extra": Code(proof)}, run / "last.ckpt")
    try:
        assert f"{run / 'last.ckpt'}" in complaint("train", f"--resume={run}", "--epochs=2")
    finally:
        assert not proof.exists()


def test_nothing_to_resume(tmp_path, trained, complaint):
    run = copy_run(trained, tmp_path / "run")
    (run / "last.ckpt").unlink()
    assert f"{run / 'last.ckpt'} is not there, so there is nothing to resume" in complaint("train", f"--resume={run}")
