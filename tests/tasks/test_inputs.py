"""A loss says in one sentence which image, object or value it cannot be computed from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from vertebra.errors import VertebraError
from vertebra.structures import Frame, Masks, Prediction, Preprocess, Target
from vertebra.tasks import Task, base

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
ROW = [[8.0, 8.0, 40.0, 24.0]]


def objects(**changes) -> list[Target]:
    """Targets of one object each with everything that a method may need; `changes` are of the second."""
    masks = Masks((64, 64), [(8, 8)], [torch.ones(16, 32, dtype=torch.bool)])
    points = torch.tensor([[[9.0, 9.0, 2.0], [0.0, 0.0, 0.0]]])
    good = Target(boxes=torch.tensor(ROW), labels=torch.tensor([1]), masks=masks, keypoints=points)
    return [good, replace(good, **changes)]


def message(task, images, targets) -> str:
    with pytest.raises(VertebraError) as error:
        task.train().loss(images, targets)
    return str(error.value)


@pytest.fixture(scope="module")
def models(make):
    """The smallest models with 2 classes and 2 keypoints, by task."""
    return {task: make(task) for task in ("classification", "detection", "instance", "keypoints")}


@pytest.mark.parametrize("task", ["detection", "instance", "keypoints"])
def test_good_targets_pass(models, task):
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": Masks((64, 64))}
    for targets in (objects(), tuple(objects()), objects(**empty, keypoints=torch.zeros(0, 2, 3))):
        assert all(torch.isfinite(term) for term in models[task].train().loss(IMAGES, targets).values())


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([IMAGES[0], IMAGES[1]], "images are a list; they must be a normalised batch [B, 3, H, W] float32, such as"),
        (IMAGES[0], "images are [3, 64, 64] float32; they must be"),
        (IMAGES[:, :1], "images are [2, 1, 64, 64] float32; they must be"),
        (IMAGES[:0], "images are [0, 3, 64, 64] float32; they must be"),
        (IMAGES.to(torch.uint8), "images are [2, 3, 64, 64] uint8; they must be"),
        (IMAGES.double(), "images are [2, 3, 64, 64] float64, the model is float32: convert one of them."),
        (IMAGES.to("meta"), "images are on meta, the model is on cpu: move them with .to('cpu')."),
        (IMAGES.index_fill(0, torch.tensor([1]), float("nan")), "image 1 has values that are infinite or not a number"),
    ],
)
def test_images(models, images, sentence):
    assert sentence in message(models["detection"], images, objects())


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        (torch.zeros(2), "targets are a Tensor; they must be a list with a Target for each image."),
        (objects()[0], "targets are a Target; they must be a list with a Target for each image."),
        (objects()[:1], "there are 1 targets for 2 images; there must be one for each."),
        ([{"boxes": 1}] * 2, "target 0 is a dict; it must be a Target of vertebra.structures, such as Target(boxes="),
    ],
)
def test_lists_of_targets(models, targets, sentence):
    assert sentence in message(models["detection"], IMAGES, targets)


BOXES = [
    (
        "boxes",
        None,
        "target 1 has no boxes, such as boxes=torch.tensor([[8.0, 8.0, 40.0, 24.0]]). An image without obj",
    ),
    ("boxes", ROW, "target 1: boxes is a list; it must be [N, 4] float32, such as torch.tensor([["),
    ("boxes", torch.tensor(ROW).int(), "target 1: boxes is [1, 4] int32; it must be [N, 4] float32"),
    ("boxes", torch.zeros(1, 5), "target 1: boxes is [1, 5] float32; it must be [N, 4] float32"),
    ("boxes", torch.tensor(ROW, device="meta"), "target 1: boxes is on meta, the images are on cpu."),
    (
        "boxes",
        torch.tensor([[40.0, 8.0, 8.0, 24.0]]),
        "target 1: box 0 is [40.0, 8.0, 8.0, 24.0]; x1 < x2 and y1 < y2 m",
    ),
    ("boxes", torch.tensor([[8.0, 8.0, 8.0, 24.0]]), "x1 < x2 and y1 < y2 must hold"),
    (
        "boxes",
        torch.tensor([[8.0, 8.0, float("nan"), 24.0]]),
        "target 1: box 0 is [8.0, 8.0, nan, 24.0]; it is infinite",
    ),
    ("boxes", torch.tensor([[8.0, 8.0, float("inf"), 24.0]]), "it is infinite or not a number"),
    (
        "boxes",
        torch.tensor([[70.0, 8.0, 90.0, 24.0]]),
        "target 1: box 0 is [70.0, 8.0, 90.0, 24.0]; it lies outside of",
    ),
    ("size", (32, 0), "target 1: size is (32, 0); it must be the (height, width) of the image without its padding"),
    ("size", 64, "target 1: size is 64; it must be the (height, width)"),
    ("labels", None, "target 1 has no labels, such as labels=torch.tensor([0])"),
    ("labels", torch.tensor([7]), "target 1: labels[0] is 7; the 2 classes are 0 to 1."),
    ("labels", torch.tensor([-1]), "target 1: labels[0] is -1; the 2 classes are 0 to 1."),
    (
        "labels",
        torch.tensor([1.0]),
        "target 1: labels is [1] float32; it must be [1] int64, such as torch.tensor([0]).",
    ),
    ("labels", torch.tensor([0, 1]), "target 1: labels is [2] int64; it must be [1] int64"),
    ("crowd", torch.tensor([0]), "target 1: crowd is [1] int64; it must be [1] bool"),
]
DENSE = torch.ones(1, 64, 64, dtype=torch.bool)


@pytest.mark.parametrize(
    ("task", "field", "value", "sentence"),
    [
        *(("detection", *case) for case in BOXES),
        ("instance", "masks", None, "target 1 has no masks, such as masks=Masks.from_dense("),
        (
            "instance",
            "masks",
            DENSE,
            "target 1: masks are a Tensor; they must be Masks of vertebra.structures, such as",
        ),
        ("instance", "masks", Masks.from_dense(DENSE[:, :32]), "masks are for 32 x 64 pixels, the image has 64 x 64."),
        ("instance", "masks", Masks((64, 64)), "target 1 has 0 masks and 1 boxes; there must be one for each."),
        (
            "instance",
            "masks",
            Masks((64, 64), [(60, 0)], [DENSE[0]]),
            "target 1: mask 0 is [64, 64] bool at x = 60, y = 0",
        ),
        (
            "instance",
            "masks",
            Masks((64, 64), [(0, 0)], [DENSE[0].int()]),
            "mask 0 is [64, 64] int32 on cpu; it must be",
        ),
        ("keypoints", "keypoints", None, "target 1 has no keypoints"),
        (
            "keypoints",
            "keypoints",
            torch.zeros(1, 3, 3),
            "keypoints is [1, 3, 3] float32; it must be [1, 2, 3] float32",
        ),
        (
            "keypoints",
            "keypoints",
            torch.full((1, 2, 3), float("nan")),
            "target 1: keypoints has values that are infinite",
        ),
    ],
)
def test_objects(models, task, field, value, sentence):
    assert sentence in message(models[task], IMAGES, objects(**{field: value}))


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        (None, "target 1 has no label, such as label=torch.tensor(0)."),
        (1, "target 1: label is an int; it must be [] int64, such as torch.tensor(0)."),
        (torch.tensor(7), "target 1: label is 7; the 2 classes are 0 to 1."),
        (torch.tensor(1.0), "target 1: label is [] float32; it must be [] int64"),
        (torch.tensor([0.2, 0.3, 0.5]), "target 1: label is [3] float32; it must be [2] float32"),
        (torch.tensor([0.5, 0.5]), "the targets have classes and soft labels"),
    ],
)
def test_classes_of_images(models, label, sentence):
    assert sentence in message(models["classification"], IMAGES, [Target(label=torch.tensor(0)), Target(label=label)])


def test_the_fields_of_a_task_are_those_of_its_kind(models):
    from vertebra import kinds

    for task in models.values():
        assert {*task.target_fields} - {"labels"} == kinds.find(task.kind).fields


class Sum(Task):
    """A task that says nothing of the fields that it needs."""

    def __init__(self) -> None:
        super().__init__(None, ("a", "b"), Preprocess())
        self.scale = nn.Parameter(torch.ones(()))

    def loss(self, images, targets):
        return {"sum": self.scale * images.sum()}


def test_a_new_task_needs_no_check_of_its_own():
    """The fields that are given are checked, and those alone."""
    assert Sum().loss(IMAGES, [Target(), Target(boxes=torch.zeros(3, 4))])
    for targets, sentence in (
        ([{}, {}], "target 0 is a dict; it must be a Target of vertebra.structures, such as Target(label=torch.ten"),
        ([Target(label=torch.tensor(2))] * 2, "target 0: label is 2; the 2 classes are 0 to 1."),
        (
            [Target(semantic=torch.full((64, 64), 7).byte())] * 2,
            "target 0: semantic is 7; the 2 classes are 0 to 1.",
        ),
        ([Target(semantic=torch.zeros(64, 60).byte())] * 2, "semantic is [64, 60] uint8; it must be [64, 64] uint8"),
        ([Target(boxes=torch.tensor([[3.0, 0.0, 0.0, 3.0]]))] * 2, "box 0 is [3.0, 0.0, 0.0, 3.0]; x1 < x2"),
    ):
        assert sentence in message(Sum(), IMAGES, targets)
    assert Sum().loss(IMAGES, [Target(semantic=torch.full((64, 64), 255, dtype=torch.uint8))] * 2)


def test_frames(models):
    frame = Frame((64, 64), (64, 64))
    for frames, sentence in (
        ([frame], "there are 1 frames for 2 images"),
        ([None] * 2, "frames are [None, None]; they"),
    ):
        with pytest.raises(VertebraError) as error:
            models["classification"].infer(IMAGES, frames)
        assert sentence in str(error.value)
    with pytest.raises(VertebraError, match="images are a list"):
        models["classification"].infer([IMAGES[0]], [frame])
    assert isinstance(models["classification"].eval().infer(IMAGES, [frame] * 2)[0], Prediction)


def test_optimised_python_leaves_the_check_out(models):
    assert hasattr(type(models["classification"]).loss, "__wrapped__")
    optimised = {"__name__": "optimised"}
    exec(compile(Path(base.__file__).read_text(), base.__file__, "exec", optimize=1), optimised)
    task = type("Sum", (optimised["Task"],), {"loss": lambda self, images, targets: {}})
    assert not hasattr(task.loss, "__wrapped__")
