"""Anchors, box coding, matching, RoIs, masks and keypoint cells, with numbers worked by hand."""

import math

import pytest
import torch
from torchvision.ops import roi_align

from vertebra.ops.anchors import anchor_grid
from vertebra.ops.boxes import MAX_LOG_RATIO, decode, encode, inside_image, regression_loss, split_crowd
from vertebra.ops.heatmaps import heatmaps_to_keypoints, keypoints_to_cells
from vertebra.ops.masks import crop_masks, paste_masks
from vertebra.ops.match import BACKGROUND, IGNORED, match, sample
from vertebra.ops.roi import align, multiscale_roi_align, roi_levels
from vertebra.structures import Masks, Target


def test_anchors_are_centred_on_of_their_cells():
    anchors = anchor_grid((1, 2), 16, [32.0], [1.0])
    assert anchors.tolist() == [[-8, -8, 24, 24], [8, -8, 40, 24]]
    corner = anchor_grid((1, 2), 16, [32.0], [1.0], offset=0.0)
    assert corner.tolist() == [[-16, -16, 16, 16], [0, -16, 32, 16]]


def test_anchors_keep_their_area_and_have_their_ratio():
    anchors = anchor_grid((2, 1), 8, [16.0, 32.0], [0.5, 2.0])
    assert anchors.shape == (2 * 4, 4)
    width, height = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    # within a cell the ratio changes slower than the side
    torch.testing.assert_close(height / width, torch.tensor([0.5, 0.5, 2, 2]).repeat(2))
    torch.testing.assert_close(width * height, torch.tensor([256.0, 1024, 256, 1024]).repeat(2))
    torch.testing.assert_close(anchors[4:] - anchors[:4], torch.tensor([0.0, 8, 0, 8]).expand(4, 4))


def test_anchors_as_torchvision_rounds_them():
    anchors = anchor_grid((1, 1), (10, 20), [32.0], [0.5], offset=0.0, rounded=True)
    assert anchors.tolist() == [[-23, -11, 23, 11]]  # 32 sqrt(2) / 2 = 22.63, 11.31
    apart = anchor_grid((2, 2), (10, 20), [2.0], [1.0], offset=0.0)
    assert apart[3].tolist() == [19, 9, 21, 11]
    with pytest.raises(ValueError, match="at least one side"):
        anchor_grid((1, 1), 8, [])


def test_encode_and_decode():
    reference = torch.tensor([[0.0, 0, 10, 20]])
    box = torch.tensor([[5.0, 10, 15, 20]])  # centre (10, 15) against (5, 10); sides 10 and 10 against 10 and 20
    deltas = encode(box, reference)
    assert deltas.tolist()[0] == pytest.approx([0.5, 0.25, 0, math.log(0.5)])
    assert encode(box, reference, (10, 10, 5, 5)).tolist()[0] == pytest.approx([5, 2.5, 0, 5 * math.log(0.5)])
    torch.testing.assert_close(decode(deltas, reference), box)
    several = decode(torch.stack((deltas, torch.zeros_like(deltas)), 1), reference)  # two classes
    torch.testing.assert_close(several[0], torch.cat((box, reference)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smooth_l1", 2 * (5 - 0.5)),  # dx is 0.5, times 10; beta is 1
        ("giou", 2 * (1 - 1 / 3)),  # 50 of 150 pixels in common, which fill the box around both
        ("diou", 2 * (1 - 1 / 3 + 25 / 325)),  # the centres are 5 apart, the corners of that box the root of 325
        ("ciou", 2 * (1 - 1 / 3 + 25 / 325)),  # of one shape
    ],
)
def test_losses_of_boxes(name, expected):
    references = torch.tensor([[0.0, 0, 10, 10]]).expand(2, 4)
    boxes = torch.tensor([[5.0, 0, 15, 10], [-5.0, 0, 5, 10]])
    loss = regression_loss(name, torch.zeros(2, 4), boxes, references, beta=1.0, weights=(10, 10, 5, 5))
    assert float(loss) == pytest.approx(expected)
    nothing = regression_loss(name, torch.zeros(0, 4), boxes[:0], references[:0], beta=1.0)
    assert float(nothing) == 0.0


def test_decoded_sides_have_a_limit():
    huge = decode(torch.tensor([[0.0, 0, 50, 50]]), torch.tensor([[0.0, 0, 16, 16]]))
    assert pytest.approx(math.log(62.5)) == MAX_LOG_RATIO
    assert float(huge[0, 2] - huge[0, 0]) == pytest.approx(1000, rel=1e-4)


def test_crowds_are_not_learned_from():
    target = Target(boxes=torch.tensor([[0.0, 0, 1, 1], [2, 2, 3, 3]]), crowd=torch.tensor([True, False]))
    kept, crowds = split_crowd(target)
    assert kept.tolist() == [1]
    assert crowds.tolist() == [[0, 0, 1, 1]]


NONE = torch.zeros(0, 4)
ANCHORS = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 4], [20, 20, 30, 30]])
BOX = torch.tensor([[0.0, 0, 10, 10]])


def test_match_by_overlap():
    # The IoUs are 1, 0.6, 0.4 and 0.
    assert match(ANCHORS, BOX, NONE, high=0.7, low=0.5).tolist() == [0, IGNORED, BACKGROUND, BACKGROUND]
    assert match(ANCHORS, BOX, NONE, high=0.5, low=0.5).tolist() == [0, 0, BACKGROUND, BACKGROUND]


def test_match_gives_every_object_its_best_anchors():
    weak = ANCHORS[1:]
    assert match(weak, BOX, NONE, high=0.7, low=0.3, low_quality_iou=0.0).tolist() == [0, IGNORED, BACKGROUND]
    assert match(weak, BOX, NONE, high=0.7, low=0.3, low_quality_iou=0.65).tolist() == [IGNORED, IGNORED, BACKGROUND]
    far = torch.tensor([[50.0, 50, 60, 60]])
    assert match(far, BOX, NONE, high=0.7, low=0.3, low_quality_iou=0.0).tolist() == [BACKGROUND]


def test_match_in_parts_is_match_at_once(monkeypatch):
    corners = torch.rand(40, 2) * 50
    anchors = torch.cat((corners, corners + 5 + torch.rand(40, 2) * 20), 1)
    objects = torch.cat((anchors[5:9] + 1, anchors[30:31]))
    options = {"high": 0.7, "low": 0.3, "low_quality_iou": 0.0}
    whole = match(anchors, objects, NONE, **options)
    monkeypatch.setattr("vertebra.ops.match.MAX_PAIRS", 15)  # three anchors at a time
    assert torch.equal(match(anchors, objects, NONE, **options), whole)
    assert len(set(whole.tolist())) > 4


def test_match_without_anchors():
    assert match(NONE, BOX, NONE, high=0.7, low=0.3, low_quality_iou=0.0).tolist() == []


def test_match_without_objects_and_in_crowds():
    assert match(ANCHORS, NONE, NONE, high=0.7, low=0.3, low_quality_iou=0.0).tolist() == [BACKGROUND] * 4
    crowd = torch.tensor([[0.0, 0, 10, 5]])  # covers 0.5, 5/6, 1 and 0 of the anchors
    assert match(ANCHORS, NONE, crowd, high=0.7, low=0.3).tolist() == [BACKGROUND, IGNORED, IGNORED, BACKGROUND]


def test_boxes_inside_the_image():
    boxes = torch.tensor([[0.0, 0.0, 9.0, 5.0], [-1.0, 0.0, 5.0, 5.0], [0.0, 0.0, 10.0, 5.0], [0.0, 2.0, 5.0, 6.0]])
    assert inside_image(boxes, (6, 10)).tolist() == [True, False, False, False]


def test_sample_keeps_the_fraction():
    matches = torch.tensor([0] * 10 + [BACKGROUND] * 30 + [IGNORED] * 5)
    positive, background = sample(matches, 16, 0.25)
    assert len(positive) == 4
    assert len(background) == 12
    assert positive.max() < 10
    assert ((background >= 10) & (background < 40)).all()
    few = sample(matches[8:12], 16, 0.25)
    assert [len(indices) for indices in few] == [2, 2]
    none = sample(matches[40:], 16, 0.25)
    assert [len(indices) for indices in none] == [0, 0]


def test_roi_levels():
    sides = torch.tensor([10.0, 55, 56, 111, 112, 224, 448, 5000])
    boxes = torch.stack((torch.zeros(8), torch.zeros(8), sides, sides), 1)
    assert roi_levels(boxes, 4, 4).tolist() == [0, 0, 0, 0, 1, 2, 3, 3]
    assert roi_levels(boxes, 4, 7).tolist() == [0, 0, 0, 0, 0, 1, 2, 3]
    assert roi_levels(torch.tensor([[3.0, 3, 3, 3]]), 4, 4).tolist() == [0]


def test_pooled_rois_average_their_cells():
    """Of a map that rises by 1 per cell, a RoI's cells give the coordinates of their middles."""
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    box = torch.tensor([[16.0, 16, 48, 48]])  # cells 4 to 12 at stride 4, whose middles are at 4.5 - 0.5 and so on
    pooled = multiscale_roi_align([ramp], [4], [box], 2)
    assert pooled.shape == (1, 1, 2, 2)
    assert pooled[0, 0, 0].tolist() == pytest.approx([5.5, 9.5])
    shifted = multiscale_roi_align([ramp], [4], [box], 2, aligned=False)
    assert shifted[0, 0, 0].tolist() == pytest.approx([6.0, 10.0])


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [1, 2, 3])
def test_rois_are_torchvisions(aligned, sampling_ratio):
    """Forward and backward, for rois inside, across the edge and outside."""
    torch.manual_seed(0)
    features = torch.randn(2, 5, 12, 17, requires_grad=True)
    corners = torch.rand(60, 2) * 100 - 20
    rois = torch.cat((torch.randint(0, 2, (60, 1)).float(), corners, corners + torch.rand(60, 2) * 80), 1)
    theirs = roi_align(features, rois, 7, 0.25, sampling_ratio, aligned)
    ours = align(features, rois, 7, 0.25, sampling_ratio, aligned)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(theirs)
    (expected,) = torch.autograd.grad((theirs * weight).sum(), features)
    (gradient,) = torch.autograd.grad((ours * weight).sum(), features)
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)


def test_rois_of_maps_in_half_precision_keep_their_place():
    rising = torch.arange(400.0)[None, None, None].expand(1, 1, 8, 400)  # bfloat16 knows 513 only as 512 or 516
    box = torch.tensor([[0.0, 1025.0, 4.0, 1031.0, 12.0]])
    exact = align(rising / 400, box, 7, 0.25, 2, True)
    pooled = align((rising / 400).bfloat16(), box, 7, 0.25, 2, True)
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled.float(), exact, atol=0.004, rtol=0)  # half a step of bfloat16 there, not a cell


def test_pooled_rois_come_from_their_level_in_order():
    maps = [torch.full((2, 1, 256 // s, 256 // s), float(s)) for s in (4, 8)]
    small, large, wide = [0.0, 0, 40, 40], [0.0, 0, 120, 120], [0.0, 0, 63, 64 * 3]
    first, second = torch.tensor([wide, large, small]), torch.tensor([small, wide, large])
    assert roi_levels(torch.cat((first, second)), 2, 4).tolist() == [0, 1, 0, 0, 0, 1]
    pooled = multiscale_roi_align(maps, [4, 8], [first, second], 1)
    assert pooled.flatten().tolist() == [4, 8, 4, 4, 4, 8]
    assert multiscale_roi_align(maps, [4, 8], [first, NONE], 1).flatten().tolist() == [4, 8, 4]
    assert multiscale_roi_align(maps, [4, 8], [NONE, NONE], 7).shape == (0, 1, 7, 7)


def test_crop_masks():
    dense = torch.zeros(2, 8, 8, dtype=torch.bool)
    dense[0, :, :4] = True
    dense[1, 2:4, 2:4] = True
    masks = Masks.from_dense(dense)
    crops = crop_masks(masks, torch.tensor([1, 0]), torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 8]]), 2)
    torch.testing.assert_close(crops[1], torch.tensor([[1.0, 0], [1, 0]]), atol=0.13, rtol=0)
    assert float(crops[0, 0, 0]) == pytest.approx(0.25, abs=0.01)  # 4 of the cell's 16 pixels
    assert crop_masks(masks, torch.zeros(0, dtype=torch.int64), NONE, 2).shape == (0, 2, 2)


def test_paste_by_hand():
    half = torch.tensor([[[1.0, 0], [1, 0]]])
    (mask,) = paste_masks(half, torch.tensor([[2.0, 2, 10, 10]]), (12, 12)).dense()
    # A pixel's middle at x is (x - 2) / 4 - 0.5 on the axis of the cells, so the left cell counts 0.625, 0.875, 0.875
    # and 0.625 at the pixels 2 to 5; down, both cells together count 0.625 and 0.875 at the ends and 1 between.
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[2:10, 2:6] = True
    expected[[2, 2, 9, 9], [2, 5, 2, 5]] = False  # 0.625 x 0.625
    assert torch.equal(mask, expected)


def test_pasted_masks_stay_in_the_image():
    boxes = torch.tensor([[-20.0, -20, 5, 5], [3, 3, 100, 100], [30, 30, 40, 40]])
    masks = paste_masks(torch.ones(3, 28, 28), boxes, (16, 16))
    assert masks.dense().flatten(1).sum(1).tolist() == [25, 168, 0]  # a mask's own corner counts 0.64 x 0.64
    for (x, y), crop in zip(masks.corners, masks.crops, strict=True):
        assert 0 <= x <= x + crop.shape[1] <= 16
        assert 0 <= y <= y + crop.shape[0] <= 16


def test_paste_equals_sampling_a_grid():
    """Detectron2 and MMDetection sample the mask at every pixel of the image with grid_sample."""
    torch.manual_seed(0)
    probability, box, size = torch.rand(1, 28, 28), torch.tensor([[5.3, 2.1, 41.7, 33.9]]), (40, 50)
    y = (torch.arange(40) + 0.5 - box[0, 1]) / (box[0, 3] - box[0, 1]) * 2 - 1
    x = (torch.arange(50) + 0.5 - box[0, 0]) / (box[0, 2] - box[0, 0]) * 2 - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], 2)[None]
    sampled = torch.nn.functional.grid_sample(probability[None], grid, align_corners=False)[0, 0]
    assert torch.equal(paste_masks(probability, box, size).dense()[0], sampled >= 0.5)


def test_paste_rounded_is_torchvisions():
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    torch.manual_seed(1)
    probability = torch.rand(4, 28, 28)
    boxes = torch.tensor([[5.3, 2.1, 41.7, 33.9], [-3.5, 10, 20, 60], [30.2, 30.9, 31.1, 31.5], [0, 0, 50, 40]])
    theirs = paste_masks_in_image(probability[:, None], boxes, (40, 50))[:, 0]
    assert torch.equal(paste_masks(probability, boxes, (40, 50), rounded=True).dense(), theirs >= 0.5)


def test_keypoints_to_cells():
    box = torch.tensor([[10.0, 10, 18, 26]])
    points = torch.tensor([[[10.0, 10, 2], [18, 26, 1], [13.9, 18, 2], [9.9, 12, 2], [12, 12, 0]]])
    cells, inside = keypoints_to_cells(points, box, 4)
    assert inside.tolist() == [[True, True, True, False, False]]
    assert cells[0, :3].tolist() == [0, 15, 2 * 4 + 1]


def test_heatmaps_to_keypoints():
    logits = torch.zeros(1, 1, 4, 4)
    logits[0, 0, 2, 1] = 5.0
    keypoints = heatmaps_to_keypoints(logits, torch.tensor([[10.0, 20, 18, 28]]))  # two pixels a cell
    assert keypoints.shape == (1, 1, 3)
    assert 12 <= float(keypoints[0, 0, 0]) <= 14
    assert 24 <= float(keypoints[0, 0, 1]) <= 26
    assert heatmaps_to_keypoints(torch.zeros(0, 3, 4, 4), NONE).shape == (0, 3, 3)
