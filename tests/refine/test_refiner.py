"""Refiner: masks are refined in their patches alone, whatever the batch; options beyond the paper."""

from dataclasses import dataclass, fields

import pytest
import torch
from torch import nn
from torch.nn.functional import max_pool2d

import vertebra
from vertebra.errors import VertebraError
from vertebra.ops.patches import boundary_patches, boundary_scores, cut, paste
from vertebra.refine import Refiner
from vertebra.structures import Masks, Prediction, Preprocess
from vertebra.tasks.base import Task


@dataclass(frozen=True)
class Config:
    patch_size: int = 16
    padding: int = 0
    nms_threshold: float = 0.25
    align_corners: bool = False


class Network(Task):
    """Foreground is where the image is bright, or what `answer` says of the input [B, C + 1, S, S] in 0..1."""

    def __init__(self, config=None, side=16, channels=4, answer=lambda images: images[:, 0] > 0.5):
        preprocess = Preprocess(
            size=(side, side), resize="squash", interpolation="nearest", mean=(0.0,) * channels, std=(1.0,) * channels
        )
        super().__init__(config or Config(), ("background", "foreground"), preprocess)
        self.scale = nn.Parameter(torch.ones(1))
        self.answer, self.inputs = answer, []

    def forward(self, images, sizes=None):
        self.inputs.append(images.clone())
        foreground = self.answer(images).float() * 20 - 10
        return (torch.stack((-foreground, foreground), 1) * self.scale,)


def disc(height, width, x, y, radius):
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (xs - x) ** 2 + (ys - y) ** 2 <= radius**2


def image_of(mask):
    return (mask.to(torch.uint8) * 200).repeat(3, 1, 1)


def prediction_of(*masks):
    count = len(masks)
    return Prediction(
        boxes=torch.arange(4.0 * count).reshape(-1, 4),
        labels=torch.arange(count),
        scores=torch.linspace(1, 0.5, count),
        masks=Masks.from_dense(torch.stack(masks)),
        size=masks[0].shape,
        path="street.jpg",
    )


def inside(mask, boxes):
    """The pixels in some of the patches: [H, W] bool."""
    side = int(boxes[0, 2] - boxes[0, 0])
    return paste(torch.zeros_like(mask), boxes, torch.ones(len(boxes), side, side))


COARSE = [disc(90, 120, 40, 45, 25), disc(90, 120, 0, 0, 9), disc(90, 120, 95, 60, 20), disc(90, 120, 119, 89, 6)]
TRUE = disc(90, 120, 42, 44, 27) | disc(90, 120, 95, 60, 18)


def test_masks_change_in_their_patches_alone_and_nothing_else_does():
    before = prediction_of(*COARSE)
    after = Refiner(Network())(image_of(TRUE), before)
    for index, coarse in enumerate(COARSE):
        patches = inside(coarse, boundary_patches(coarse, 16, 0.25))
        assert torch.equal(after.masks[index], torch.where(patches, TRUE, coarse))
        assert torch.equal(before.masks[index], coarse)
    for field in fields(Prediction):
        if field.name != "masks":
            assert getattr(after, field.name) is getattr(before, field.name)


@pytest.mark.parametrize("options", [{}, {"cover": True}, {"relative": 0.5}, {"uncertain": 0.1, "passes": 2}])
def test_the_batch_changes_no_mask_and_bounds_the_input(options):
    empty = torch.zeros_like(TRUE)
    prediction = prediction_of(empty, *COARSE, empty)
    masks = []
    for batch_size in (1, 7, 1000):
        network = Network()
        refiner = Refiner(network, batch_size=batch_size, **options)
        masks.append(refiner(image_of(TRUE), prediction).masks.dense())
        sizes = [len(images) for images in network.inputs]
        assert max(sizes) <= batch_size
        assert sum(size < batch_size for size in sizes) <= refiner.passes
        assert refiner.counts.masks == 6
        assert refiner.counts.unchanged >= 2
        assert refiner.counts.patches == sum(sizes)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


def test_the_network_sees_the_padded_patch_and_its_coarse_mask():
    network = Network(side=24, answer=lambda images: images[:, 0] > 0.5)
    coarse = COARSE[0]
    image = image_of(TRUE)
    Refiner(network, padding=4)(image, prediction_of(coarse))
    (images,) = network.inputs
    boxes = boundary_patches(coarse, 16, 0.25)
    assert torch.allclose(images[:, :3], cut(image, boxes, 4) / 255)
    assert torch.equal(images[:, 3], cut(coarse[None], boxes, 4)[:, 0].float())


def test_probabilities_are_resized_to_the_patch():
    """An input of half the side: every answer counts for 2 x 2 pixels."""
    coarse = torch.zeros(64, 64, dtype=torch.bool)
    coarse[24:40, 24:40] = True
    network = Network(side=8, answer=lambda images: torch.ones_like(images[:, 0]))
    refined = Refiner(network)(image_of(coarse), prediction_of(coarse)).masks[0]
    assert torch.equal(refined, coarse | inside(coarse, boundary_patches(coarse, 16, 0.25)))
    assert network.inputs[0].shape[2:] == (8, 8)


def test_an_image_smaller_than_a_patch_is_refined():
    true, coarse = disc(12, 20, 9, 5, 5), disc(12, 20, 10, 5, 3)
    network = Network()
    refined = Refiner(network)(image_of(true), prediction_of(coarse)).masks[0]
    boxes = boundary_patches(coarse, 16, 0.25)
    assert (boxes[:, 1::2] == torch.tensor([0, 16])).all()
    assert torch.equal(refined, torch.where(inside(coarse, boxes), true, coarse))
    assert (network.inputs[0][:, :, 12:] == 0).all()  # the image is continued with zeros


def test_cover_refines_every_boundary_pixel():
    coarse = disc(200, 200, 100, 100, 80)
    grown = max_pool2d(coarse[None].float(), 3, 1, 1)[0].bool()
    plain, covering = (
        Refiner(Network(), cover=cover)(image_of(grown), prediction_of(coarse)).masks[0] for cover in (False, True)
    )
    boundary = boundary_scores(coarse) > 0
    assert (plain ^ grown)[boundary].any()
    assert not (covering ^ grown)[boundary].any()


def test_relative_patches_grow_with_the_object():
    """A disc of 81 pixels: a quarter is 20; one of 21: 16 pixels at least. Both are resized to the network's input."""
    large, small = disc(128, 128, 60, 60, 40), disc(128, 128, 60, 60, 10)
    for coarse, side in ((large, 20), (small, 16)):
        network = Network()
        refined = Refiner(network, relative=0.25)(image_of(coarse), prediction_of(coarse)).masks[0]
        boxes = boundary_patches(coarse, side, 0.25)
        assert len(network.inputs[0]) == len(boxes)
        assert network.inputs[0].shape[2:] == (16, 16)
        outside = ~inside(coarse, boxes)
        assert torch.equal(refined[outside], coarse[outside])


def test_certain_patches_are_left_as_they_are():
    """The first mask lies exactly on the edge of the colours, the second one beside it."""
    fits, shifted = disc(90, 120, 30, 45, 20), disc(90, 120, 92, 45, 20)
    image = image_of(fits | disc(90, 120, 85, 45, 20))
    network = Network(answer=lambda images: torch.zeros_like(images[:, 0]))
    refiner = Refiner(network, uncertain=0.05)
    refined = refiner(image, prediction_of(fits, shifted)).masks
    assert torch.equal(refined[0], fits)
    assert refined[1].sum() < shifted.sum()
    assert refiner.counts.unchanged == 1


def test_every_pass_starts_from_the_masks_of_the_one_before():
    """A network that adds a pixel on all sides."""
    coarse = disc(90, 90, 45, 45, 5)
    grow = Network(answer=lambda images: max_pool2d(images[:, 3:], 3, 1, 1)[:, 0])
    expected = max_pool2d(coarse[None].float(), 7, 1, 3)[0].bool()
    refined = Refiner(grow, patch_size=16, passes=3, cover=True)(image_of(coarse), prediction_of(coarse)).masks[0]
    assert torch.equal(refined, expected)


def test_masks_without_a_boundary_are_counted():
    empty = torch.zeros(40, 40, dtype=torch.bool)
    full, pixel = ~empty, empty.clone()
    pixel[20, 20] = True
    refiner = Refiner(Network())
    refined = refiner(image_of(full), prediction_of(empty, full, pixel)).masks
    assert len(refined.crops[0]) == 0
    assert torch.equal(refined[1], full)
    assert refined[2].sum() == 16 * 16  # the network says that all of its patch is foreground
    assert refiner.counts.unchanged == 1


def test_no_objects():
    prediction = Prediction(boxes=torch.zeros(0, 4), masks=Masks((40, 40)), size=(40, 40))
    network = Network()
    assert len(Refiner(network)(torch.zeros(3, 40, 40, dtype=torch.uint8), prediction).masks) == 0
    assert not network.inputs


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"patch_size": 15}, "patch_size is 15; it must be even"),
        ({"patch_size": 2}, "patch_size is 2; it must lie between 4 and 1,024"),
        ({"nms_threshold": 1.5}, "nms_threshold is 1.5"),
        ({"padding": -1}, "padding is -1"),
        ({"relative": 2.0}, "relative is 2"),
        ({"relative": 0.5, "patch_size": 32}, "patch_size and relative exclude each other"),
        ({"uncertain": -0.1}, "uncertain is -0.1"),
        ({"passes": 0}, "passes is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_wrong_options(options, sentence):
    with pytest.raises(VertebraError, match=sentence):
        Refiner(Network(), **options)


def test_what_does_not_fit_is_one_sentence():
    refiner = Refiner(Network())
    image = image_of(TRUE)
    with pytest.raises(VertebraError, match="no masks to refine"):
        refiner(image, Prediction(boxes=torch.zeros(1, 4)))
    with pytest.raises(VertebraError, match="masks are of an image of 120 x 90 pixels, but this one has 119 x 90"):
        refiner(image[:, :, 1:], prediction_of(*COARSE))
    with pytest.raises(VertebraError, match="the image has 1 channels; the refinement network takes 3 and the mask"):
        refiner(image[:1], prediction_of(*COARSE))
    with pytest.raises(VertebraError, match="a model for classification does not refine masks"):
        Refiner(vertebra.create("classification", backbone="resnet18", classes=2))
