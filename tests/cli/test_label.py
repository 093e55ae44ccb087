"""`vertebra label`: a model's predictions as datasets, and as a stored teacher."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vertebra
from vertebra.cli import main
from vertebra.data import soft_labels
from vertebra.data.loader import loader
from vertebra.engine import checkpoint, distill
from vertebra.engine.settings import resolve
from vertebra.errors import VertebraError
from vertebra.kinds import find
from vertebra.structures import Preprocess, Target

BACKBONE = {"backbone": "resnet18", "backbone_options": {"depths": (1, 1, 1, 1)}}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Six images of 32 x 32 pixels in two folders of classes, two of which are for validation."""
    folder = tmp_path_factory.mktemp("labelling") / "images"
    for number in range(6):
        place = folder / ("val" if number < 2 else "train") / ("even", "odd")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.full((32, 32, 3), 255 * (number % 2), np.uint8)
        pixels[8 : 8 + number, 8:20] = 90
        Image.fromarray(pixels).save(place / f"={number}.png")
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("labelling") / "teacher.safetensors"
    task = vertebra.create("classification", classes=("odd", "even"), preprocess=Preprocess((32, 32)), **BACKBONE)
    checkpoint.save(task, path, epoch=1)
    return path


@pytest.fixture(scope="module")
def stored(tmp_path_factory, teacher, images) -> Path:
    """What the teacher says of the training images."""
    folder = tmp_path_factory.mktemp("labelling") / "labels"
    assert main(["label", str(teacher), str(images / "train"), f"--save={folder}", "--device=cpu"]) == 0
    return folder


def test_classes_are_stored_with_their_probabilities(stored, teacher, images):
    labels = soft_labels.read(stored)
    assert labels.classes == ("odd", "even")
    assert [path.name for path in labels.paths] == ["=2.png", "=4.png", "=3.png", "=5.png"]
    expected = vertebra.load(teacher, device="cpu").predict([str(path) for path in labels.paths])
    assert torch.allclose(labels.probabilities, torch.stack([p.probabilities for p in expected]), atol=1e-6)
    catalogue = find("category").read(stored)  # the folder is a dataset too
    assert find("category").read(stored / "labels.csv").classes == catalogue.classes
    tops = [labels.classes[int(row.argmax())] for row in labels.probabilities]
    assert [catalogue.classes[sample.label] for sample in catalogue.splits["train"]] == tops


def test_stored_answers_teach_as_their_model_does(stored, teacher, images):
    """A batch of training images without augmentation, one of them without a label."""
    student = vertebra.create("classification", classes=("even", "odd"), preprocess=Preprocess((32, 32)), **BACKBONE)
    kind = find("category")
    samples = kind.read(images).splits["train"]
    more = {"num_classes": 2, "batch_size": 3, "workers": 0, "augment": kind.no_augment}
    batches = loader(samples[:3], student.preprocess, kind, unlabelled=samples[3:], **more)
    batch = next(iter(batches))
    assert (len(batch.targets), batch.unlabelled) == (4, 1)
    terms = []
    for name in (stored, teacher):
        settings = resolve("classification", None, {"teacher": name, "model": BACKBONE})
        made = distill.create(settings, student, samples, written=None, mixing=False)
        terms.append({name: float(term) for name, term in made(student.eval(), batch).items()})
    assert terms[0] == pytest.approx(terms[1], rel=1e-4)
    assert terms[0].keys() == {"classification", "distillation"}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"augment": {"mixup": 0.2}}, "are of single images, and the augmentation mixes images"),
        ({"distill": {"loss": "features"}}, "holds probabilities, not maps"),
        ({"distill": {"unlabelled": "elsewhere"}}, "1 of 5 training images have no answer in"),
    ],
)
def test_stored_answers_that_do_not_fit(tmp_path, stored, images, monkeypatch, more, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (32, 32), (1, 2, 3)).save(tmp_path / "elsewhere" / "a.png")
    with pytest.raises(VertebraError, match=sentence):
        vertebra.train("classification", data=images, teacher=stored, model=BACKBONE, device="cpu", **more)


def test_damaged_answers(tmp_path):
    answers = [str(tmp_path / "1.png")], torch.tensor([[0.2, 0.8]]), [{"label": "b"}]
    soft_labels.write(tmp_path, ("a", "b"), *answers, independent=False)
    assert soft_labels.read(tmp_path).paths == [tmp_path / "1.png"]
    (tmp_path / "labels.csv").write_text("path\n1.png\n2.png\n")
    with pytest.raises(VertebraError, match=r"lists 2 images, and .* has 1 rows"):
        soft_labels.read(tmp_path)
    (tmp_path / "labels.csv").write_text("path,label\n1.png,b\n")
    for wrong, sentence in (
        (torch.tensor([[0.2, 0.9]]), "of an image's classes must sum to 1"),
        (torch.tensor([[-0.2, 1.2]]), "must lie between 0 and 1"),
        (torch.zeros(1, 3), r"must be \[images, 2\]"),
    ):
        soft_labels.save_file({"probabilities": wrong}, tmp_path / "soft_labels.safetensors", {"classes": '["a", "b"]'})
        with pytest.raises(VertebraError, match=sentence):
            soft_labels.read(tmp_path)


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_tags_are_stored_and_teach_as_their_model_does(tmp_path, images, loss):
    """Also those with a space in an image without another."""
    torch.manual_seed(0)
    options = {"classes": ("sea", "blue sky"), "preprocess": Preprocess((32, 32)), **BACKBONE, "loss": loss}
    teacher, student = (vertebra.create("multilabel", **options).eval() for _ in range(2))
    with torch.no_grad():
        teacher.head.classify.weight.mul_(0.1)
        teacher.head.classify.bias.copy_(torch.tensor([-4.0, 2.0]))
    checkpoint.save(teacher, tmp_path / "teacher.safetensors")
    folder = tmp_path / "labels"
    words = [str(tmp_path / "teacher.safetensors"), str(images / "train"), f"--save={folder}", "--device=cpu"]
    assert main(["label", *words, "--threshold=0.4"]) == 0
    stored = soft_labels.read(folder)
    assert stored.independent == (loss == "bce")
    catalogue = find("tags").read(folder)
    assert catalogue.classes == ("blue sky",)
    assert not catalogue.problems
    samples = catalogue.splits["train"]
    assert [sample.target.tags.tolist() for sample in samples] == [[0]] * 4
    more = {"num_classes": 2, "batch_size": 4, "workers": 0, "augment": find("tags").no_augment}
    batch = next(iter(loader(samples, student.preprocess, find("tags"), **more)))
    batch.targets = [Target(path=target.path, tags=target.tags) for target in batch.targets]
    terms = []
    for name in (folder, tmp_path / "teacher.safetensors"):
        made = distill.create(settings_of(name), student, samples, written=None, mixing=False)
        terms.append({name: float(term) for name, term in made(student, batch).items()})
    assert terms[0] == pytest.approx(terms[1], rel=1e-3)
    other = vertebra.create("multilabel", **options | {"loss": "softmax" if loss == "bce" else "bce"})
    with pytest.raises(VertebraError, match=f"teacher {folder} has probabilities of .*, the student .linear. of "):
        distill.create(settings_of(folder), other, samples, written=None, mixing=False)
    semicolons = vertebra.create("multilabel", **options | {"classes": ("a;b", "c")})
    checkpoint.save(semicolons, tmp_path / "teacher.safetensors")
    assert main(["label", *words[:-2], f"--save={tmp_path / 'new'}"]) == 2


def settings_of(folder):
    return resolve("multilabel", None, {"teacher": folder, "model": BACKBONE})


@pytest.mark.parametrize("kind", ["boxes", "masks", "keypoints"])
def test_objects_are_stored_as_annotations(tmp_path, make_detector, kind, images, capsys):
    make_detector(kind)
    folder = tmp_path / "labels"
    words = [str(tmp_path / "detector"), str(images / "train"), f"--save={folder}", "--device=cpu", "--threshold=0.1"]
    assert main(["label", *words]) == 0
    said = capsys.readouterr().out
    content = json.loads((folder / "instances.json").read_text())
    assert f"4 images with {len(content['annotations'])} objects in" in said
    assert len(content["images"]) == 4
    assert content["annotations"]
    assert all(annotation["score"] >= 0.1 for annotation in content["annotations"])
    catalogue = find(kind).read(folder)
    assert not catalogue.problems
    predicted = vertebra.load(tmp_path / "detector", device="cpu").predict(str(images / "train"), threshold=0.1)
    for prediction, sample in zip(predicted, catalogue.splits["train"], strict=True):
        assert sample.image.name == Path(prediction.path).name
        target = sample.load_target((32, 32))
        assert torch.allclose(target.boxes, prediction.boxes, atol=1e-2)
        assert target.labels.tolist() == prediction.labels.tolist()
        if kind == "masks":
            assert torch.equal(target.masks.dense(), prediction.masks.dense())
        if kind == "keypoints":
            assert torch.allclose(target.keypoints[..., :2], prediction.keypoints[..., :2], atol=1e-2)
            assert (target.keypoints[..., 2] == 2).all()
    settings = resolve("classification", None, {"teacher": folder})
    with pytest.raises(VertebraError, match=rf"{folder} holds pseudo-labels, .* data.path={folder}"):
        distill.create(settings, vertebra.create("classification", classes=2), [], written=None, mixing=False)
    words = [*words[:2], f"--save={tmp_path / 'none'}", "--device=cpu", "--threshold=1"]
    assert main(["label", *words]) == 0
    assert "no object's score reaches the threshold" in capsys.readouterr().out


def test_label_maps_are_stored_beside_a_list(tmp_path, images):
    torch.manual_seed(0)
    model = {
        "method": "fcn",
        "channels": 8,
        "classes": ("sky", "sea", "sun"),
        "preprocess": Preprocess((32, 32), resize="squash"),
    }
    checkpoint.save(vertebra.create("semantic", **BACKBONE, **model), tmp_path / "m.safetensors")
    folder = tmp_path / "labels"
    assert main(["label", str(tmp_path / "m.safetensors"), str(images), f"--save={folder}", "--device=cpu"]) == 0
    catalogue = find("semantic").read(folder)
    assert catalogue.classes == ("sky", "sea", "sun")
    assert not catalogue.problems
    assert len(catalogue.splits["train"]) == 6
    predicted = vertebra.load(tmp_path / "m.safetensors", device="cpu").predict(str(images))
    for prediction, sample in zip(predicted, catalogue.splits["train"], strict=True):
        assert torch.equal(sample.load_target((32, 32)).semantic, prediction.semantic)


def test_mistakes(tmp_path, teacher, images, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    (tmp_path / "broken.png").write_bytes(b"")
    for words, sentence in (
        ([str(images)], "needs --save"),
        ([str(images), f"--save={tmp_path / 'full'}"], "is in use; --save takes a folder that is empty or not there"),
        (["https://x.org/a.png", f"--save={tmp_path / 'new'}"], "https://x.org/a.png is no image file"),
        ([str(tmp_path / "broken.png"), f"--save={tmp_path / 'none'}"], "none of the images could be read"),
        ([str(images), f"--save={tmp_path / 'new'}", "--threshold=0.5"], "threshold"),
        ([str(images), f"--save={tmp_path / 'new'}", "--batch_size=0"], "batch_size is 0"),
    ):
        assert main(["label", str(teacher), *words]) == 2
        said = capsys.readouterr().err
        assert sentence in said, said
        assert said.count("\n") == 1
