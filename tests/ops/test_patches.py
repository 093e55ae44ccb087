"""Boundary patches: values worked by hand, and the original's on four masks."""

import numpy as np
import pytest
import torch
import torchvision

from vertebra.ledger.fabricate import fabricated_input
from vertebra.ops.patches import (
    batched_boundary_patches,
    boundary_patches,
    boundary_scores,
    cut,
    nms,
    paste,
    separation,
)
from vertebra.structures import Masks


@pytest.fixture(scope="module")
def patches(reference_folder):
    return dict(np.load(reference_folder / "bpr_patches.npz"))


@pytest.fixture(scope="module")
def merged(reference_folder):
    return dict(np.load(reference_folder / "bpr_merge.npz"))


def mask_of(arrays, index):
    return torch.from_numpy(arrays[f"input.mask{index}"]).bool()


def rectangle(height, width, x1, y1, x2, y2):
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return mask


def test_the_score_is_the_distance_of_the_count_from_both_ends():
    """Counts of a 2 x 2 square are 1, 2 and 4; beyond the border lies background."""
    inside = boundary_scores(rectangle(4, 5, 1, 1, 3, 3)) * 4.5
    assert inside.tolist() == [[1, 2, 2, 1, 0], [2, 4, 4, 2, 0], [2, 4, 4, 2, 0], [1, 2, 2, 1, 0]]
    full = boundary_scores(torch.ones(3, 3, dtype=torch.bool)) * 4.5  # counts 4, 6 and 9
    assert full.tolist() == [[4, 3, 4], [3, 0, 3], [4, 3, 4]]
    assert boundary_scores(torch.zeros(3, 3, dtype=torch.bool)).dtype == torch.float32


def test_patches_are_centred_on_the_highest_scores_in_row_major_order():
    """A 2 x 2 square: its four pixels tie at 4, so that the first in row-major order has its patch, and all others
    overlap it by more than half."""
    mask = rectangle(40, 40, 20, 20, 22, 22)
    assert boundary_patches(mask, 8, 0.25).tolist() == [[16, 16, 24, 24]]
    assert boundary_patches(mask, 8, 1.0).shape == (16, 4)  # none removed: a patch for every boundary pixel


def test_patches_beyond_the_border_are_moved_back_as_in_the_original():
    corners = [boundary_patches(rectangle(40, 50, x, y, x + 1, y + 1), 8) for x, y in ((0, 0), (49, 39))]
    assert corners[0].tolist() == [[0, 0, 8, 8]]
    assert corners[1].tolist() == [[41, 31, 49, 39]]  # off the last row and column


def test_a_crop_of_the_mask_gives_the_patches_of_the_whole():
    torch.manual_seed(0)
    for corner in ((0, 0), (30, 20), (60, 52)):
        crop = torch.rand(28, 40) > 0.3
        whole = torch.zeros(80, 100, dtype=torch.bool)
        whole[corner[1] : corner[1] + 28, corner[0] : corner[0] + 40] = crop
        boxes = boundary_patches(crop, 16, 0.3, corner=corner, image_size=(80, 100))
        assert torch.equal(boxes, boundary_patches(whole, 16, 0.3))


def noise(height, width, cells=9):
    """A smooth random mask."""
    grid = torch.randn(1, 1, cells, cells)
    return torch.nn.functional.interpolate(grid, (height, width), mode="bicubic")[0, 0] > 0.2


@pytest.mark.parametrize("iou", [0.0, 0.25, 0.55, 0.9, 1.0])
def test_nms_keeps_what_torchvision_keeps(iou):
    torch.manual_seed(0)
    x, y, scores = torch.randint(0, 60, (400,)), torch.randint(-9, 50, (400,)), torch.randint(1, 5, (400,))
    groups = torch.randint(0, 4, (400,)).sort().values * 2  # 1, 3 and 5 have none
    boxes = torch.stack((x, y, x + 16, y + 16), 1)
    kept = torchvision.ops.batched_nms(boxes.float(), scores.float(), groups, iou)
    kept = kept[groups[kept].argsort(stable=True)]
    corners, kept_groups = nms(*(values.numpy() for values in (x, y, scores, groups)), 16, iou)
    assert corners.tolist() == boxes[kept, :2].tolist()
    assert kept_groups.tolist() == groups[kept].tolist()
    assert [kept.shape for kept in nms(*[np.zeros(0, np.int64)] * 4, 16, iou)] == [(0, 2), (0,)]


@pytest.mark.parametrize("cover", [False, True])
def test_masks_of_an_image_have_the_patches_of_each(cover, monkeypatch):
    """Also when several canvases are needed, and with empty masks among them."""
    torch.manual_seed(0)
    masks = Masks((200, 150))
    for height, width in ((40, 60), (0, 0), (90, 30), (12, 12), (150, 140), (30, 30), (7, 1)):
        mask = noise(height, width) if height > 9 else torch.ones(height, width, dtype=torch.bool)
        masks.append(150 - width - 3, 200 - height - 5, mask)
    alone = [
        boundary_patches(crop, 16, 0.3, cover=cover, corner=corner, image_size=masks.size)
        for corner, crop in zip(masks.corners, masks.crops, strict=True)
    ]
    assert [len(boxes) > 0 for boxes in alone] == [True, False, True, True, True, True, True]
    for canvas in (1 << 23, 9000, 1):
        monkeypatch.setattr("vertebra.ops.patches.CANVAS", canvas)
        together = batched_boundary_patches(masks, 16, 0.3, cover=cover)
        assert [boxes.tolist() for boxes in together] == [boxes.tolist() for boxes in alone]
    assert batched_boundary_patches(Masks((20, 20)), 16) == []


@pytest.mark.parametrize("cover", [False, True])
def test_masks_without_a_boundary_have_no_patches(cover):
    for mask in (torch.zeros(30, 30, dtype=torch.bool), torch.zeros(0, 0, dtype=torch.bool)):
        assert boundary_patches(mask, 8, cover=cover, image_size=(30, 30)).shape == (0, 4)


def test_an_image_smaller_than_a_patch_has_one_at_its_corner():
    """Along an axis where the image is longer than a patch, patches lie side by side as ever."""
    mask = rectangle(20, 30, 5, 5, 25, 15)
    assert boundary_patches(mask, 32).tolist() == [[0, 0, 32, 32]]
    wide = rectangle(20, 200, 5, 5, 195, 15)
    boxes = boundary_patches(wide, 32)
    assert boxes[:, 1::2].unique(dim=0).tolist() == [[0, 32]]
    assert len(set(boxes[:, 0].tolist())) == len(boxes) > 4


def test_cover_leaves_no_boundary_pixel_out():
    """Also not in the last row and column, which patches moved back miss."""
    torch.manual_seed(1)
    for mask in (noise(120, 150, 13), torch.ones(120, 150, dtype=torch.bool), rectangle(120, 150, 149, 119, 150, 120)):
        boundary = boundary_scores(mask) > 0
        plain, covering = (boundary_patches(mask, 16, cover=cover) for cover in (False, True))
        assert torch.equal(covering[: len(plain)], plain)
        assert covering.min() >= 0
        assert (covering[:, 2:] <= torch.tensor([150, 120])).all()
        outside = [
            boundary & ~paste(torch.zeros_like(mask), boxes, torch.ones(len(boxes), 16, 16))
            for boxes in (plain, covering)
        ]
        assert [pixels.any().item() for pixels in outside] == [True, False]


def test_cut_continues_the_image_with_zeros():
    image = torch.arange(1, 13, dtype=torch.uint8).reshape(1, 3, 4)
    boxes = torch.tensor([[1, 0, 3, 2], [2, 1, 4, 3]])
    assert cut(image, boxes).tolist() == [[[[2, 3], [6, 7]]], [[[7, 8], [11, 12]]]]
    padded = cut(image, boxes, 1)
    assert padded.shape == (2, 1, 4, 4)
    assert padded[0, 0].tolist() == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    assert padded[1, 0].tolist() == [[2, 3, 4, 0], [6, 7, 8, 0], [10, 11, 12, 0], [0, 0, 0, 0]]
    beyond = cut(image.bool(), torch.tensor([[-1, -1, 3, 3]]))
    assert beyond.int().tolist() == [[[[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]]]]
    assert cut(image, torch.zeros(0, 4, dtype=torch.int64)).shape[:2] == (0, 1)


def test_paste_takes_the_mean_where_patches_overlap():
    mask = rectangle(3, 5, 4, 0, 5, 3)
    boxes = torch.tensor([[0, 0, 2, 2], [1, 0, 3, 2]])
    probabilities = torch.tensor([[[0.9, 0.9], [0.4, 0.4]], [[0.2, 0.6], [0.7, 0.5]]])
    refined = paste(mask, boxes, probabilities)
    #       means: 0.9, 0.55, 0.6 and 0.4, 0.55, 0.5
    assert refined.int().tolist() == [[1, 1, 1, 0, 1], [0, 1, 0, 0, 1], [0, 0, 0, 0, 1]]
    assert torch.equal(mask, rectangle(3, 5, 4, 0, 5, 3))  # is left as it was
    assert torch.equal(paste(mask, boxes[:0], probabilities[:0]), mask)


def test_paste_drops_the_padding_and_what_lies_beyond_the_mask():
    probabilities = torch.zeros(1, 4, 4)
    probabilities[0, 1:3, 1:3] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    empty = torch.zeros(3, 3, dtype=torch.bool)
    assert paste(empty, torch.tensor([[1, 1, 3, 3]]), probabilities, 1).int().tolist() == [
        [0, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]
    assert paste(empty, torch.tensor([[-1, -1, 1, 1]]), probabilities, 1).nonzero().tolist() == [[0, 0]]


def test_separation_is_the_share_of_variance_between_the_sides():
    """A border between black and white; of three colours; beside the edge of the colours; and of a single colour."""
    mask = rectangle(12, 12, 0, 0, 6, 12)
    image = torch.zeros(4, 3, 12, 12, dtype=torch.uint8)
    image[0, :, :, 6:] = 255
    image[1, 0] = torch.tensor([3, 6, 9])[torch.arange(12) % 3]  # on both sides
    image[2, :, :, 7:] = 255
    # of a band of 3 + 3 columns: 1 black beside 2 white; variance 2/9, within the sides (0 + 2/9) / 2
    assert separation(image, mask.expand(4, -1, -1)).tolist() == pytest.approx([1, 0, 0.5, 0])
    assert separation(image, torch.zeros(4, 12, 12, dtype=torch.bool)).tolist() == [0, 0, 0, 0]


def test_boundaries_and_patches_are_the_originals(patches):
    for index in range(4):
        mask = mask_of(patches, index)
        assert np.array_equal(boundary_scores(mask).numpy(), patches[f"boundary.{index}"])
        for iou in (0.25, 0.55):
            expected = patches[f"dets.{index}.iou{iou}"]
            assert np.array_equal(boundary_patches(mask, 64, iou).numpy(), expected[:, :4])
    large = boundary_patches(mask_of(patches, 0), 128, 0.25)
    assert np.array_equal(large.numpy(), patches["dets.0.size128.iou0.25"][:, :4])


def test_cut_is_the_originals(patches):
    y, x, c = np.ogrid[:300, :420, :3]
    image = torch.from_numpy((((y * 420 + x) * 3 + c) * 7919 % 251).astype(np.uint8)).permute(2, 0, 1)
    names = [name.rpartition(".")[0] for name in patches if name.endswith("image_sum")]
    assert len(names) == 12
    for name in names:
        _, index, *iou, pad = name.split(".")
        mask = mask_of(patches, index)
        boxes = boundary_patches(mask, 64, float(".".join(iou).removeprefix("iou")))
        padding = int(pad.removeprefix("pad"))
        for what, source in (("image", image), ("mask", mask[None])):
            cuts = cut(source, boxes, padding)
            assert np.array_equal(cuts.sum((1, 2, 3)).numpy(), patches[f"{name}.{what}_sum"])
            assert (patches[f"{name}.shapes"] == list(cuts.shape[2:])).all()


def test_paste_is_the_originals(merged):
    for index in range(4):
        mask, boxes = mask_of(merged, index), torch.from_numpy(merged[f"input.boxes{index}"]).long()
        for padding in (0, 8):
            side = 64 + 2 * padding
            probabilities = torch.sigmoid(1.5 * fabricated_input((len(boxes), side, side), 100 * index + padding))
            refined = paste(mask, boxes, probabilities, padding)
            assert np.array_equal(refined.numpy(), merged[f"refined.{index}.pad{padding}"].astype(bool))
