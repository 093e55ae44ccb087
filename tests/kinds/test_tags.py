"""Tags: where they come from, resampling, notes, and a run from training to the table of predictions."""

import csv
import json
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

import vertebra
from vertebra import kinds
from vertebra.cli import main
from vertebra.data.catalogue import Catalogue, Sample, map_classes
from vertebra.data.formats import shapes
from vertebra.errors import VertebraError
from vertebra.kinds.tags import TagsData, resampled
from vertebra.structures import Prediction, Target

TAGS = kinds.find("tags")


def catalogue(*tags: list[int], classes: str = "abcd") -> Catalogue:
    """Training images of these tags."""
    samples = [Sample(torch.zeros(3, 4, 4), Target(tags=torch.tensor(row, dtype=torch.int64))) for row in tags]
    return Catalogue("DATA", "csv_tags", tuple(classes), {"train": samples}, has=frozenset({"tags"}))


# -- where tags come from


@pytest.mark.parametrize("kind", ["boxes", "category"])
def test_classes_of_objects_and_of_images(tmp_path, kind):
    for i in range(2):
        Image.new("RGB", (10, 8)).save(tmp_path / f"{i}.png")
    if kind == "boxes":
        objects = [
            {"id": i, "image_id": 1, "category_id": c, "bbox": [1, 1, 4, 4], "iscrowd": c == 2}
            for i, c in enumerate((3, 3, 2))
        ]
        images = [{"id": 1, "file_name": "0.png", "width": 8, "height": 10}]  # turned, which does not matter here
        images += [{"id": 2, "file_name": "1.png", "width": 10, "height": 8}]
        categories = [{"id": i, "name": name} for i, name in enumerate("abc", 1)]
        content = {"images": images, "annotations": objects, "categories": categories}
        (tmp_path / "a.json").write_text(json.dumps(content))
        expected = [["b", "c"], []]
    else:
        (tmp_path / "list.csv").write_text("path,label\n0.png,x\n1.png,y\n")
        tmp_path /= "list.csv"
        expected = [["x"], ["y"]]
    data = TAGS.read(tmp_path)
    assert [[data.classes[i] for i in sample.target.tags.tolist()] for sample in data.split("train")] == expected
    assert data.notes[-1].startswith("tags of an image are the class")
    assert data.has == {"tags"}


class Items(Dataset):
    classes = ("a", "b", "c")

    def __init__(self, *targets):
        self.targets = targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return torch.zeros(3, 8, 8, dtype=torch.uint8), self.targets[index]


def test_a_dataset_of_tags():
    data = TAGS.read(Items(Target(tags=torch.tensor([2, 0, 2])), Target(tags=torch.zeros(0).long())))
    assert [sample.target.tags.tolist() for sample in data.split("train")] == [[0, 2], []]
    with pytest.raises(VertebraError, match="item 0 of the train split: it has class 3; classes are from 0 to 2"):
        TAGS.read(Items(Target(tags=torch.tensor([3])))).split("train")[0].target  # noqa: B018
    for wrong, words in ((torch.tensor([0.5]), "float32; classes are int64"), (torch.tensor(1), r"its tags is \[\]")):
        with pytest.raises(VertebraError, match=words):
            TAGS.read(Items(Target(tags=wrong)))
    boxes = Target(boxes=torch.tensor([[0.0, 0, 4, 4]]), labels=torch.tensor([1]))
    with pytest.raises(VertebraError, match="has boxes but no tags: train detection on it"):
        TAGS.read(Items(boxes))


def test_tags_are_renumbered_as_the_model_has_them():
    (sample,) = map_classes(catalogue([0, 2]).split("train"), ("a", "b", "c", "d"), ("d", "c", "b", "a"))
    assert sample.target.tags.tolist() == [3, 1]


# -- training


def test_replication_factors_by_hand():
    """Of 16 images, tag 0 is in 16, tag 1 in 1: with t = 1, the latter is shown sqrt(16) times."""
    data = catalogue([0, 1], *[[0]] * 15)
    samples = data.split("train")
    counts = Counter(map(id, resampled(samples, [16, 1, 0, 0], 1.0)))
    assert [counts[id(sample)] for sample in samples] == [4] + [1] * 15
    mean = (16 / 16 + 1 / 16) / 2  # the default t, over the tags that occur
    counts = Counter(map(id, resampled(samples, [16, 1, 0, 0])))
    assert counts[id(samples[0])] in (int(math.sqrt(mean * 16)), int(math.sqrt(mean * 16)) + 1)


def test_fractions_are_probabilities_and_seeded():
    samples = catalogue(*[[0]] * 1000, *[[1]] * 4000).split("train")
    drawn = resampled(samples, [1000, 4000], 0.45, seed=3)  # sqrt(0.45 / 0.2) = 1.5
    assert len(drawn) == pytest.approx(5500, abs=80)
    assert drawn == resampled(samples, [1000, 4000], 0.45, seed=3)
    assert drawn != resampled(samples, [1000, 4000], 0.45, seed=4)
    assert resampled(samples, [1000, 4000], 0.0) == samples


def test_training_samples_and_their_notes():
    task = SimpleNamespace()
    data = catalogue([0], [0], [0], [0, 1], [])
    assert TAGS.samples(data, "train", task, training=True) == data.split("train")
    assert data.notes == ["no train image has 'c', 'd', which cannot be learned"]
    data.notes.clear()
    samples = TAGS.samples(data, "train", task, training=True, data=TagsData("sqrt", 0.8))
    assert len(samples) == 6
    assert data.notes[-1] == "train: 5 images become 6 by resampling, one at most 2 times"
    assert TAGS.samples(data, "train", task, data=TagsData("sqrt", 0.8)) == data.split("train")  # to be evaluated
    with pytest.raises(VertebraError, match="no image of the train split of DATA has a tag"):
        TAGS.samples(catalogue([], []), "train", task, training=True)
    with pytest.raises(VertebraError, match=r"data\.resample_below needs data\.resample=sqrt"):
        TagsData(resample_below=0.1)


def test_balance():
    assert TAGS.model_options(catalogue([0], [0, 1], classes="ab"), True) == {"class_weights": (0.75, 1.5)}
    with pytest.raises(VertebraError, match="class 'b' has no training images to balance"):
        TAGS.model_options(catalogue([0], classes="ab"), True)


def test_mixed_tags_are_mixed_as_the_images_are():
    mix = TAGS.batch_transform(TAGS.augment(mixup=1.0), 3)
    images = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    torch.manual_seed(0)
    mixed, targets = mix(images, [Target(tags=torch.tensor([0, 1]), path="a"), Target(tags=torch.tensor([2]))])
    share = float(mixed[0, 0, 0, 0])  # of the second image
    assert 0 < share < 1
    torch.testing.assert_close(targets[0].tags, torch.tensor([1 - share, 1 - share, share]))
    assert (targets[0].path, targets[0].label) == ("a", None)


# -- `vertebra data`


def test_notes():
    notes = TAGS.notes(catalogue([0, 1], [0, 1], [0, 1], [2], [3, 3], classes="abcd"))
    assert notes == [
        "classes are uneven (1 to 3 images, fewest 'c'): consider --data.resample=sqrt or --balance",
        "in one training image only: 'c'",
        "always together in train (3 images): 'a', 'b'",
    ]
    many = TAGS.notes(catalogue([0], [0], classes="abcdefghijklmno"))
    assert many == ["in no training image: 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k' and 4 more"]


# -- predictions


def test_views_are_averaged_before_the_thresholds():
    views = [Prediction().with_tags(torch.tensor(row), (0.5, 0.3)) for row in ([0.9, 0.1], [0.3, 0.4])]
    merged = TAGS.merge_views(views)
    assert (merged.labels.tolist(), merged.tags.tolist()) == ([0], pytest.approx([0.6, 0.25]))
    assert [row["predicted"] for row in TAGS.rows(merged, ("a", "b"))] == [True, False]


def test_nothing_is_predicted():
    nothing = Prediction(classes=("a", "b")).with_tags(torch.tensor([0.1, 0.2]))
    assert TAGS.summarize([nothing], ("a", "b")) == "nothing"
    assert TAGS.row(TAGS.record(nothing, ("a", "b"))) == {"tags": "", "probabilities": ""}
    image = torch.full((3, 40, 40), 90, dtype=torch.uint8)
    assert TAGS.draw(image, nothing, ("a", "b")).size == (40, 40)


def test_the_repr_of_predictions_and_targets():
    prediction = Prediction(classes=tuple("abcdefgh")).with_tags(torch.linspace(0.51, 0.9, 8))
    assert repr(prediction).startswith("Prediction(h 0.900, g 0.844, ")
    assert repr(prediction).endswith(", 2 others)")
    assert [repr(Target(tags=torch.tensor(tags))) for tags in ([1], [0, 1], [0.5, 0.5])] == [
        "Target(1 tag)",
        "Target(2 tags)",
        "Target(soft tags)",
    ]


# -- a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An epoch on some of the built-in shapes, with what concerns tags."""
    folder = tmp_path_factory.mktemp("tags")
    counts, shapes.COUNTS = shapes.COUNTS, {"train": 16, "val": 8}
    try:
        yield vertebra.train(
            "multilabel",
            data="shapes",
            image_size=32,
            batch_size=8,
            workers=0,
            epochs=1,
            device="cpu",
            model={"backbone": "resnet18", "backbone_options": {"depths": (1, 1, 1, 1)}, "loss": "asymmetric"},
            output=folder / "run",
            logger=["csv"],
            **{"data.resample": "sqrt", "augment.mixup": 0.5},
        )
    finally:
        shapes.COUNTS = counts


def test_the_thresholds_of_the_best_epoch_are_stored_and_used(run, tmp_path, capsys):
    predictor = run.load(device="cpu")
    thresholds = predictor.class_thresholds
    assert len(thresholds) == len(shapes.CLASSES)
    assert list(thresholds) == run.metrics["thresholds"]
    image = tmp_path / "1.png"
    shapes_image, _ = shapes.draw(0, 20, 64, (1, 3))
    Image.fromarray(shapes_image.permute(1, 2, 0).numpy()).save(image)
    (result,) = predictor.predict(image)
    assert result.thresholds.tolist() == pytest.approx(list(thresholds))
    assert sorted(result.labels.tolist()) == torch.nonzero(result.tags >= torch.tensor(thresholds)).flatten().tolist()
    (all_of_them,) = predictor.predict(image, threshold=0.0)
    assert len(all_of_them) == len(shapes.CLASSES)
    (mirrored,) = predictor.predict(image, tta=True)
    assert mirrored.thresholds.tolist() == pytest.approx(list(thresholds))

    assert main(["predict", str(run.folder), str(image), f"--save={tmp_path / 'out'}", "--threshold=0"]) == 0
    assert "score threshold 0 (--threshold)\n" in capsys.readouterr().out
    (row,) = csv.DictReader((tmp_path / "out" / "predictions.csv").open(newline=""))
    assert set(row["tags"].split(";")) == set(shapes.CLASSES)
    labelled = TAGS.read(tmp_path / "out" / "predictions.csv")  # the table is a list of tags itself
    assert len(labelled.split("train")[0].target.tags) == len(shapes.CLASSES)
    assert main(["predict", str(run.folder), str(image)]) == 0
    assert "thresholds of the classes: best F1 of the checkpoint's evaluation\n" in capsys.readouterr().out


def test_it_is_evaluated_and_reported(run, monkeypatch, capsys):
    monkeypatch.setattr(shapes, "COUNTS", {"train": 16, "val": 8})
    assert main(["evaluate", str(run.folder)]) == 0
    output = capsys.readouterr().out
    assert f"mean AP          {run.metrics['map']:.4f}" in output
    assert "threshold   support" in output
    report = (run.folder / "report.html").read_text()
    assert "<h2>Most wrong</h2>" in report
    assert "<h2>Classes</h2>" in report
    config = (run.folder / "config.yaml").read_text()
    assert "resample: sqrt" in config
