"""A user's transforms: torchvision.transforms.v2 moves images and targets alike, before the augmentation."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from vertebra import kinds
from vertebra.data import geometry
from vertebra.data.augment.custom import CustomTransform, entries
from vertebra.data.catalogue import Sample
from vertebra.data.geometry import Example
from vertebra.data.loader import loader
from vertebra.errors import VertebraError
from vertebra.structures import Masks, Preprocess, Target


def example(crowd: bool = False, keypoints: bool = False) -> Example:
    """40 x 60 pixels, with three objects, of which the last is at the right border."""
    masks = torch.zeros(3, 40, 60, dtype=torch.bool)
    for mask, (x, y, side) in zip(masks, ((5, 5, 10), (20, 22, 15), (50, 0, 10)), strict=True):
        mask[y : y + side, x : x + side] = True
    cropped = Masks.from_dense(masks)
    points = torch.tensor([[7.0, 7, 2], [9, 9, 1]]).repeat(3, 1, 1) if keypoints else None
    target = Target(
        boxes=cropped.boxes(),
        labels=torch.tensor([0, 1, 2]),
        masks=cropped,
        crowd=torch.tensor([False, crowd, False]),
        areas=cropped.areas(),
        keypoints=points,
        size=(40, 60),
        path="in/a.png",
    )
    image = torch.arange(3 * 40 * 60).reshape(3, 40, 60) % 251
    return Example(image.to(torch.uint8), target)


def transformed(transforms, given: Example | None = None) -> Example:
    return CustomTransform(transforms, None, 3).transformed(given or example())


def test_boxes_masks_and_keypoints_move_as_in_our_own_geometry():
    ours = geometry.flip_horizontal(example(keypoints=True))
    theirs = transformed(v2.RandomHorizontalFlip(1.0), example(keypoints=True))
    assert torch.equal(theirs.image, ours.image)
    assert type(theirs.image) is torch.Tensor
    assert torch.equal(theirs.target.boxes, ours.target.boxes)
    assert torch.equal(theirs.target.masks.dense(), ours.target.masks.dense())
    assert torch.equal(theirs.target.keypoints, ours.target.keypoints)
    assert theirs.target.path == "in/a.png"


def test_objects_that_are_cropped_away_are_removed():
    def left_half(image, target):
        return v2.functional.crop(image, 0, 0, 40, 30), {
            name: value if name in ("labels", "crowd", "visibility") else v2.functional.crop(value, 0, 0, 40, 30)
            for name, value in target.items()
        }

    result = transformed(left_half, example(keypoints=True))
    assert result.size == result.target.size == (40, 30)
    assert result.target.labels.tolist() == [0, 1]
    assert result.target.boxes.tolist() == [[5, 5, 15, 15], [20, 22, 30, 37]]
    assert result.target.masks.dense().sum((1, 2)).tolist() == [100, 150]
    assert result.target.areas.tolist() == [100, 150]
    assert len(result.target.keypoints) == 2


@pytest.mark.parametrize(
    "transforms",
    [
        v2.Compose([v2.RandomIoUCrop(), v2.SanitizeBoundingBoxes(), v2.RandomHorizontalFlip()]),
        v2.Compose([v2.ConvertBoundingBoxFormat("CXCYWH"), v2.ScaleJitter((32, 32)), v2.RandomRotation(20)]),
        v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.GaussianBlur(3)]),
        v2.Compose([v2.Grayscale(), v2.RandomCrop(24)]),
        v2.ToPILImage(),
    ],
    ids=["crop", "other boxes", "floats", "grey", "pil"],
)
def test_compositions_of_torchvision(transforms):
    torch.manual_seed(0)
    result = transformed(transforms)
    assert result.image.dtype == torch.uint8
    assert len(result.image) == 3
    height, width = result.size
    boxes = result.target.boxes
    assert len(boxes) == len(result.target.masks) == len(result.target.crowd) == len(result.target.labels)
    assert bool((boxes[:, 2:] > boxes[:, :2]).all())
    assert bool((boxes >= 0).all())
    assert bool((boxes[:, [0, 2]] <= width).all())
    assert bool((boxes[:, [1, 3]] <= height).all())
    assert result.target.masks.size == (height, width)


@pytest.mark.parametrize(
    ("transforms", "sentence"),
    [
        (nn.Identity(), r"in/a.png: transforms: TypeError: .*\(they are called with an image and a dict\)"),
        (lambda image, target: image, "transforms returned 'Image'; they must return"),
        (lambda image, target: (image, {"boxes": target["boxes"]}), "returned the entries 'boxes'; they must return"),
        (lambda image, target: (image, target | {"labels": [0, 1, 2]}), "labels is 'list'; it must be a tensor"),
        (lambda image, target: (image, target | {"labels": target["labels"].float()}), "labels is torch.float32"),
        (lambda image, target: (image[:, :20], target), "its masks are for 40 x 60 pixels, the image has 20 x 60"),
        (
            v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]),
            r"values in 0..1; .*normalised afterwards: leave v2.Normalize out",
        ),
    ],
)
def test_what_transforms_must_return(transforms, sentence):
    with pytest.raises(VertebraError, match=sentence):
        transformed(transforms)


def test_rows_are_removed_alike_or_not_at_all():
    centre = v2.CenterCrop((40, 30))  # of the three objects the second lies in it
    sanitized = v2.Compose([centre, v2.SanitizeBoundingBoxes()])
    with pytest.raises(VertebraError, match=r"different numbers of rows, .* leave v2.SanitizeBoundingBoxes out"):
        transformed(sanitized, example(crowd=True))
    assert transformed(sanitized).target.crowd.tolist() == [False]
    assert transformed(centre, example(crowd=True)).target.crowd.tolist() == [True]


def test_classes_of_whole_images_pass_through():
    given = Example(example().image, Target(label=torch.tensor(2)))
    assert entries(given) == {"label": torch.tensor(2)}
    assert int(transformed(v2.RandomInvert(1.0), given).target.label) == 2


def noisy(image, target):
    """Adds the random numbers of torch, NumPy and Python."""
    value = int(torch.randint(60, ())) + int(np.random.randint(60)) + random.randrange(60)
    return torch.full_like(image, value), target


def test_they_are_seeded_for_each_image():
    samples = [Sample(torch.zeros(3, 8, 8, dtype=torch.uint8), Target(label=torch.tensor(0))) for _ in range(6)]
    kind, preprocess = kinds.find("category"), Preprocess((8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
    states = random.getstate(), np.random.get_state()[1].tolist()

    def values(workers: int) -> list[int]:
        batches = loader(
            samples,
            preprocess,
            kind,
            num_classes=2,
            batch_size=3,
            workers=workers,
            augment=kind.no_augment,
            transforms=noisy,
        )
        result = [round(float(image[0, 0, 0] * 255)) for batch in batches for image in batch.images]
        batches.close()
        return result

    assert len(set(values(0))) > 3
    assert values(0) == values(2)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
