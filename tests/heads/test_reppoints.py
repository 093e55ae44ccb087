"""Heads that predict sets of points."""

import pytest
import torch

from vertebra.heads import reppoints
from vertebra.heads.box import BoxLoss
from vertebra.heads.reppoints import RepPointsHead
from vertebra.heads.reppoints_v2 import RepPointsV2Head
from vertebra.structures import Level, Target

LEVELS = [Level(8, 8), Level(16, 8)]


def make(kind=RepPointsHead, conversion="corners", **options):
    torch.manual_seed(0)
    return kind(LEVELS, 2, conversion=conversion, box_loss=BoxLoss(**options))


def predict(head):
    return head([torch.randn(1, 8, 4, 4), torch.randn(1, 8, 2, 2)])


def test_boxes_are_relative_to_the_cells():
    points = torch.zeros(1, 18, 2, 2)
    points[0, :4] = torch.tensor([-1.0, -2.0, 1.0, 2.0])[:, None, None]  # y, x of both corners
    boxes = make().boxes(points, 8)
    assert boxes[0, :, 0, 1].tolist() == [8 - 16, -8, 8 + 16, 8]
    assert boxes[0, :, 1, 0].tolist() == [-16, 8 - 8, 16, 8 + 8]


def test_gradients_are_scaled(monkeypatch):
    """A tenth reaches the initial points from the classification, and a hundredth the factors of the moment."""

    def gradients():
        head = make(conversion="moment")
        raw = predict(head)
        raw[0][0].sum().backward()
        initial = head.init_points.bias.grad.clone()
        head.boxes(torch.randn(1, 18, 4, 4, generator=torch.Generator().manual_seed(0)), 8)[:, 2].sum().backward()
        return initial, head.moment.grad

    initial, moment = gradients()
    monkeypatch.setattr(reppoints, "GRADIENT", 1.0)
    monkeypatch.setattr(reppoints, "MOMENT_GRADIENT", 1.0)
    whole_initial, whole_moment = gradients()
    assert whole_initial.abs().sum() > 0
    assert whole_moment.abs().sum() > 0
    torch.testing.assert_close(10 * initial, whole_initial, rtol=1e-4, atol=0)
    torch.testing.assert_close(100 * moment, whole_moment, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["smooth_l1", "giou"])
def test_loss_of_boxes(name):
    """All points are at the cells: every box is empty, at the point of its cell."""
    head = make(name=name, beta=1.0)
    for parameter in (*head.init_points.parameters(), *head.refine_points.parameters()):
        torch.nn.init.zeros_(parameter)
    target = Target(boxes=torch.tensor([[0.0, 0, 32, 32]]), labels=torch.tensor([0]))
    terms = head.loss(predict(head), [target], (32, 32))
    # From 16, 16 the corners are 16 pixels away, 0.5 in units of 32; with sides longer by 1 the areas are 1 and 4.
    expected = 0.5 * 4 * 0.5 * 0.5**2 if name == "smooth_l1" else 0.5 * 2 * (1 - 1 / 4)
    assert float(terms["initial_box"]) == pytest.approx(expected)
    assert float(terms["box"]) == 0  # no initial box overlaps the object


@pytest.mark.parametrize("kind", [RepPointsHead, RepPointsV2Head])
def test_crowd_regions_are_no_background(kind):
    head = make(kind, "moment")
    torch.nn.init.normal_(head.init_points.bias)  # boxes of some cells
    target = Target(
        boxes=torch.tensor([[-999.0, -999, 999, 999]]), labels=torch.tensor([0]), crowd=torch.tensor([True])
    )
    terms = head.loss(predict(head), [target], (32, 32))
    assert {name: float(value) for name, value in terms.items()} == dict.fromkeys(terms, 0)
    target.crowd = None
    assert all(float(value) > 0 for value in head.loss(predict(head), [target], (32, 32)).values())


def test_verified_boxes_are_clipped_and_have_the_corners_of_the_heatmap():
    head = make(RepPointsV2Head)
    raw = []
    for size in (4, 2):
        points = torch.zeros(1, 18, size, size)
        points[0, :4] = torch.tensor([-1.0, -2.0, 1.0, 2.0])[:, None, None]
        scores, offsets = torch.zeros(1, 2, size, size), torch.zeros(1, 4, size, size)
        scores[0, :, 1, 1], offsets[0, :, 1, 1] = 5.0, torch.tensor([0.5, 0.25, -0.5, -0.25])
        raw.append((None, points, points, scores, offsets, None))
    first, second = head.verified_boxes(raw, torch.tensor([[30.0, 20.0, 30.0, 20.0]]))
    assert first[0, :, 2, 3].tolist() == [24 - 16, 16 - 8, 30, 20]
    # From (0, 0, 30, 16), clipped, the first corner snaps from (0, 0) to the point at 8, 8 of the first level.
    assert second[0, :2, 0, 0].tolist() == [12, 10]
    assert second[0, 2:, 0, 0].tolist() == [16, 16]  # of four points of the same score the first, without an offset
