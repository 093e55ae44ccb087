"""Adaptive training sample selection, by hand."""

import pytest
import torch

from vertebra.ops import atss
from vertebra.ops.anchors import anchor_grid
from vertebra.ops.atss import atss_assign
from vertebra.ops.boxes import centerness, paired_iou
from vertebra.ops.match import BACKGROUND, IGNORED

NONE = torch.zeros(0, 4)
ROW = [
    torch.tensor([[0.0, 0, 16, 16], [16, 0, 32, 16], [32, 0, 48, 16]]),
    torch.tensor([[0.0, -8, 32, 24], [32, -8, 64, 24]]),
]
"""Two levels, of strides 16 and 32: three and two anchors in a row, centred at y = 8."""


def grids(cells=16, levels=5):
    """Anchors of eight cells over maps of strides 8, 16, ..., of which the finest has `cells` x `cells`."""
    return [anchor_grid((cells >> i, cells >> i), 8 << i, [64.0 * 2**i], [1.0]) for i in range(levels)]


def assigned(boxes, anchors=ROW, crowd_boxes=NONE, topk=2):
    return atss_assign(anchors, torch.tensor(boxes, dtype=torch.float32).view(-1, 4), crowd_boxes, topk=topk)


def test_the_threshold_is_mean_plus_deviation():
    # Overlaps of the four candidates: 256 / 384, 128 / 512, 384 / 1024 and 0. Their mean is 0.323, their standard
    # deviation 0.277: only the first is above 0.600.
    assert assigned([[0, 0, 24, 16]]).tolist() == [0, -1, -1, -1, -1]
    # 256 / 480, 64 / 672, 480 / 1024 and 0: 0.533 is below 0.274 + 0.266, but above the mean plus the deviation of
    # the population, 0.230.
    assert assigned([[0, -8, 20, 16]]).tolist() == [BACKGROUND] * 5


def test_candidates_are_the_closest_of_every_level():
    # With one candidate per level, 256 / 384 and 384 / 1024: the threshold is 0.521 + 0.206.
    assert assigned([[0, 0, 24, 16]], topk=1).tolist() == [BACKGROUND] * 5
    # With all: 2/3, 1/4, 0, 3/8 and 0, and the threshold is 0.258 + 0.280.
    assert assigned([[0, 0, 24, 16]], topk=9).tolist() == [0, -1, -1, -1, -1]


def test_positives_have_their_centre_in_the_box():
    # The anchor at (8, 8) has the highest overlap with both.
    assert assigned([[0, 0, 7, 16]]).tolist() == [BACKGROUND] * 5
    assert assigned([[0, 0, 9, 16]]).tolist() == [0, -1, -1, -1, -1]
    assert assigned([[0, 0, 8.005, 16]]).tolist() == [BACKGROUND] * 5  # by 0.01 pixels


def test_an_object_smaller_than_a_cell():
    """It has a positive if the centre of a cell lies in it."""
    between, over = [65.0, 65, 67, 67], [66.0, 66, 70, 70]
    matches = assigned([between, over], grids(), topk=9)
    (positive,) = torch.where(matches >= 0)
    assert matches[positive].tolist() == [1]
    assert grids()[0][positive].tolist() == [[36.0, 36, 100, 100]]  # centred at (68, 68)


def test_all_objects_on_one_level():
    anchors = grids()
    boxes = [[0.0, 0, 60, 60], [60, 4, 124, 64], [30, 60, 92, 124]]
    matches = assigned(boxes, anchors, topk=9)
    finest = len(anchors[0])
    assert matches[:finest].unique().tolist() == [-1, 0, 1, 2]
    assert matches[finest:].unique().tolist() == [-1]


def test_boxes_that_share_a_centre():
    same = [torch.tensor([[8.0, 8, 24, 24], [100, 100, 116, 116]]), torch.tensor([[0.0, 0, 32, 32]])]
    small, large = [8, 8, 24, 24], [0, 0, 32, 32]
    assert assigned([small, large], same).tolist() == [0, -1, 1]
    assert assigned([large, small], same).tolist() == [1, -1, 0]
    assert assigned([small, small], same).tolist() == [0, -1, -1]  # the first of equal boxes


def test_an_anchor_has_the_box_of_highest_overlap():
    # Positive for both: overlaps of 256 / 320 and 256 / 288.
    assert assigned([[0, 0, 16, 20], [0, 0, 16, 18]]).tolist() == [1, -1, -1, -1, -1]


def test_more_objects_than_candidates():
    """Fifty objects are the first of five anchors, moved by up to 0.4 pixels; the one that is moved least has it."""
    shifts = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * 0.4
    boxes = torch.cat((shifts - 28, shifts + 36), 1)
    matches = atss_assign(grids(cells=2, levels=2), boxes, NONE)
    assert matches.tolist() == [int((64 - shifts).prod(1).argmax()), -1, -1, -1, -1]


def test_without_objects_and_in_crowd_regions():
    assert assigned([]).tolist() == [BACKGROUND] * 5
    crowd = torch.tensor([[0.0, 0, 32, 16]])
    assert assigned([], crowd_boxes=crowd).tolist() == [IGNORED, IGNORED, -1, -1, -1]  # half of the fourth is no more
    assert assigned([[0, 0, 24, 16]], crowd_boxes=crowd).tolist() == [0, IGNORED, -1, -1, -1]


def test_in_parts(monkeypatch):
    """Distances of a few boxes at a time, so that memory is bounded."""
    corners = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * 90
    boxes = torch.cat((corners, corners + 5 + corners.flip(1) / 2), 1)
    whole = atss_assign(grids(), boxes, NONE)
    sizes = []
    cdist = torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda x, y, **options: sizes.append(len(x) * len(y)) or cdist(x, y, **options))
    monkeypatch.setattr(atss, "MAX_PAIRS", 512)
    assert torch.equal(atss_assign(grids(), boxes, NONE), whole)
    assert max(sizes) == 512
    assert len(whole.unique()) > 10


def test_centerness():
    box = torch.tensor([[0.0, 0, 10, 20]]).expand(3, 4)
    points = torch.tensor([[5.0, 10], [2, 10], [2, 5]])  # sqrt(2 / 8), and sqrt(2 / 8 x 5 / 15)
    assert centerness(points, box).tolist() == pytest.approx([1.0, 0.5, 0.288675])


def test_overlaps_of_pairs():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    others = torch.tensor([[0.0, 0, 10, 5], [5, 5, 15, 15], [20, 20, 30, 30]])
    assert paired_iou(boxes, others).tolist() == pytest.approx([0.5, 25 / 175, 0.0])
    assert paired_iou(boxes[:1, None], others[None]).tolist()[0] == pytest.approx([0.5, 25 / 175, 0.0])
