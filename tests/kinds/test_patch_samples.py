"""Patches along the boundaries of coarse masks: where the masks come from, and which patches are read."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from vertebra import kinds, tasks
from vertebra.data.augment.patches import PatchesAugment
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.geometry import read_example
from vertebra.data.loader import loader
from vertebra.engine.settings import resolve
from vertebra.errors import VertebraError
from vertebra.kinds.patches import MAX_PATCHES, CoarseData
from vertebra.metrics.evaluation import Evaluation
from vertebra.ops import rle
from vertebra.ops.patches import boundary_patches
from vertebra.structures import Masks, Prediction, Preprocess, Target

KIND = kinds.find("patches")
SIZE = (60, 80)
PREPROCESS = Preprocess((32, 32), resize="squash", mean=(0.5,) * 4, std=(0.5,) * 4)
RECTANGLES = [(10, 10, 40, 50), (50, 5, 75, 30)]  # x1, y1, x2, y2


def masks(rectangles):
    result = Masks(SIZE)
    for x1, y1, x2, y2 in rectangles:
        result.append(x1, y1, torch.ones(y2 - y1, x2 - x1, dtype=torch.bool))
    return result


def catalogue(numbers=((1, 2), (3,))):
    """Images whose red channel is their number, and whose green one is 200 in the objects."""
    splits = {}
    for split, ids in zip(("train", "val"), numbers, strict=False):
        splits[split] = []
        for number in ids:
            objects = masks(RECTANGLES)
            image = torch.zeros(3, *SIZE, dtype=torch.uint8)
            image[0], image[1] = number, 200 * objects.dense().any(0)
            target = Target(boxes=objects.boxes(), labels=torch.tensor([0, 1]), size=SIZE, id=number, path=f"{number}")
            splits[split].append(Sample(image, target, tuple(rle.encode(objects))))
    return Catalogue("DATA", "coco", KIND.read("shapes").classes, splits, has=frozenset({"masks"}))


@pytest.fixture(autouse=True)
def few_shapes(monkeypatch):
    from vertebra.data.formats import shapes

    monkeypatch.setattr(shapes, "COUNTS", {"train": 2, "val": 1})


def task(**config):
    options = {"patch_size": 16, "padding": 0, "nms_threshold": 0.25, **config}
    return SimpleNamespace(config=SimpleNamespace(**options), preprocess=PREPROCESS)


def results(path, entries):
    """A file of COCO results from (image id, rectangle) pairs."""
    path.write_text(
        json.dumps(
            [
                {"image_id": image, "category_id": 1, "score": 0.5, "segmentation": rle.encode(masks([rectangle]))[0]}
                for image, rectangle in entries
            ]
        )
    )
    return CoarseData((str(path),))


COARSE = [(1, (12, 10, 40, 50)), (1, (50, 5, 75, 33)), (2, (10, 10, 36, 50)), (3, (10, 13, 40, 50))]


def test_classes_and_declarations():
    data = KIND.read("shapes")
    assert data.classes == ("background", "foreground")
    assert "masks" in data.has
    assert kinds.of(replace(data, has=frozenset({"masks"}))).name == "masks"
    assert KIND.augment() == PatchesAugment()
    with pytest.raises(VertebraError, match="resize is 'crop'"):
        KIND.check(Preprocess(resize="crop"))


def test_a_training_sample_is_an_object(tmp_path):
    """Its patch lies along the boundary of the coarse mask, another one each time, and holds both masks."""
    data = catalogue()
    samples = KIND.samples(data, "train", task(), training=True, data=results(tmp_path / "r.json", COARSE))
    assert len(samples) == 3
    assert data.notes == [f"train: 3 coarse masks ({tmp_path / 'r.json'}), a boundary patch of each per epoch"]
    coarse = masks([COARSE[0][1]]).dense()[0]
    boxes = boundary_patches(coarse, 16, 0.25).tolist()
    objects = masks(RECTANGLES).dense()[0]
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        example = read_example(samples[0], 4, KIND.fields)
        x1, y1, x2, y2 = next(
            box for box in boxes if torch.equal(coarse[box[1] : box[3], box[0] : box[2]], example.image[3] > 0)
        )
        seen.add((x1, y1))
        assert (example.image[0] == 1).all()
        assert set(example.image[3].unique().tolist()) <= {0, 255}
        assert torch.equal(example.target.semantic, objects[y1:y2, x1:x2].to(torch.uint8))
        assert torch.equal(example.target.masks[0], example.image[3] > 0)
        assert example.target.size == samples[0].size == (16, 16)
    assert len(seen) > 3


def test_masks_of_no_object_are_left_out(tmp_path):
    """Those with an IoU of 0.5 or less; they are counted, and the first of them are named."""
    wrong = [(1, (10, 10, 25, 50)), (2, (0, 0, 5, 5)), (2, (42, 40, 48, 50)), (2, (70, 50, 79, 59))]
    data = catalogue()
    samples = KIND.samples(data, "train", task(), training=True, data=results(tmp_path / "r.json", COARSE + wrong))
    assert len(samples) == 3
    assert data.notes[1] == (
        "train: 4 coarse masks are left out, whose IoU with every ground truth mask is 0.5 or less: "
        "1, coarse mask 3, 2, coarse mask 2, 2, coarse mask 3, ..."
    )
    with pytest.raises(VertebraError, match=r"no object in the val split of DATA has a coarse mask \(.*r.json\) with"):
        KIND.samples(catalogue(), "val", task(), data=results(tmp_path / "r.json", COARSE[:3] + wrong))


def test_evaluated_patches_are_always_the_same(tmp_path):
    given = results(tmp_path / "r.json", COARSE)
    first, again, other = (KIND.samples(catalogue(), "val", task(), seed=seed, data=given) for seed in (0, 0, 1))
    assert len(first) == len(other) == MAX_PATCHES
    images = [torch.stack([sample.image for sample in part]) for part in (first, again, other)]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    assert torch.equal(torch.stack([sample.image for sample in first]), images[0])


def test_padding_surrounds_the_patch(tmp_path):
    given = results(tmp_path / "r.json", COARSE)
    (plain, *_), (padded, *_) = (
        KIND.samples(catalogue(), "val", task(padding=padding), data=given) for padding in (0, 5)
    )
    assert padded.image.shape == (4, 26, 26)
    assert torch.equal(padded.image[:, 5:-5, 5:-5], plain.image)
    assert torch.equal(padded.target.semantic[5:-5, 5:-5], plain.target.semantic)


def test_degraded_masks_and_those_of_results_together(tmp_path):
    given = CoarseData(("degraded", *results(tmp_path / "r.json", COARSE).coarse))
    data = catalogue()
    assert len(KIND.samples(data, "train", task(), training=True, data=given)) == 4 + 3
    assert data.notes[0].startswith(f"train: 7 coarse masks (degraded, {tmp_path / 'r.json'}), a boundary patch")


def test_without_masks_of_a_model_the_ground_truth_is_degraded():
    """Anew for every patch of training, and by the seed alone in evaluation."""
    samples = KIND.samples(catalogue(), "train", task(), training=True)
    assert len(samples) == 4
    crowds = catalogue()
    crowds.splits["train"][0].target.crowd = torch.tensor([True, False])
    assert len(KIND.samples(crowds, "train", task(), training=True)) == 3
    coarse = set()
    for seed in range(6):
        torch.manual_seed(seed)
        coarse.add(int((samples[0].image[3] > 0).sum()))
    assert len(coarse) > 2
    first, again, other = (KIND.samples(catalogue(), "val", task(), seed=seed) for seed in (0, 0, 1))
    images = [torch.stack([sample.image for sample in part]) for part in (first, again, other)]
    assert torch.equal(images[0], images[1])
    assert images[0].shape != images[2].shape or not torch.equal(images[0], images[2])


def test_masks_that_a_model_predicts(tmp_path):
    """It runs on the images of the split."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.safetensors").touch()
    asked = []

    def load(path):
        def predict(image):
            asked.append(int(image[0, 0, 0]))
            return [Prediction(masks=masks([(12, 10, 40, 50)]), size=SIZE)]

        return SimpleNamespace(predict=predict)

    given = CoarseData((str(tmp_path / "run"),))
    samples = KIND.samples(catalogue(), "train", task(), training=True, data=given, load=load)
    assert len(samples) == 2
    assert asked == [1, 2]

    def boxes(path):
        return SimpleNamespace(predict=lambda image: [Prediction(boxes=torch.zeros(0, 4), size=SIZE)])

    data = catalogue()
    with pytest.raises(VertebraError, match="no object in the train split"):
        KIND.samples(data, "train", task(), training=True, data=given, load=boxes)


def test_an_image_that_cannot_be_used_is_a_problem_of_the_data():
    data = catalogue()
    bad = data.splits["train"][0]
    data.splits["train"][0] = replace(bad, segments=({"size": [9, 9], "counts": [81]}, bad.segments[1]))
    assert len(KIND.samples(data, "train", task(), training=True)) == 2
    assert data.problems == ["1, object 1: a mask of 9 x 9 pixels lies on an image of 60 x 80 (height x width)."]


def test_batches_do_not_depend_on_the_workers():
    batches = []
    for workers in (0, 1):
        samples = KIND.samples(catalogue(), "train", task(), training=True)
        made = loader(
            samples, PREPROCESS, KIND, num_classes=2, batch_size=4, workers=workers, seed=5, augment=KIND.augment()
        )
        batches += list(made)
        made.close()
    first, second = batches
    assert first.images.shape == (4, 4, 32, 32)
    assert torch.equal(first.images, second.images)
    for target, other in zip(first.targets, second.targets, strict=True):
        assert torch.equal(target.semantic, other.semantic)
        assert target.semantic.shape == (32, 32)


def test_augmentation_moves_masks_with_the_image():
    """The object is green, so the label map follows the image; the coarse mask is not coloured."""
    samples = KIND.samples(catalogue(), "train", task(), training=True)
    transform = KIND.transform(PatchesAugment(flip_vertical=0.5, rotate90=0.75), replace(PREPROCESS, size=(16, 16)))
    for seed in range(8):
        torch.manual_seed(seed)
        image, target = transform(read_example(samples[0], 4, KIND.fields), lambda: None)
        assert torch.equal(image[1] > image[2] + 0.1, target.semantic > 0)
        assert set(image[3].unique().tolist()) <= {-1.0, 1.0}
        assert target.masks is None


def test_the_report_has_the_worst_patches():
    samples = KIND.samples(catalogue(), "val", task())
    model = tasks.create("refinement", backbone="resnet18", channels=8, backbone_options={"depths": (1, 1, 1, 1)})
    metrics = model.metrics()
    prediction, target = Prediction(semantic=torch.zeros(16, 16, dtype=torch.uint8)), samples[0].target
    row = {"index": 0, "path": "a.png", **metrics.row(prediction, target)}
    evaluation = Evaluation({}, [row], classes=KIND.read("shapes").classes, predictions={0: prediction})
    sections = dict(KIND.sections(evaluation, samples))
    assert sections["Most wrong"].count("<img") == 4
    assert "of the coarse mask" in sections["Most wrong"]


def test_coarse_masks_come_from_somewhere():
    with pytest.raises(VertebraError, match="coarse is empty; give degraded"):
        resolve("refinement", None, {"data.coarse": ()})
