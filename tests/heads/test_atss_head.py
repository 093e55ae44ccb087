"""The loss and the scores of ATSS, by hand."""

import math

import pytest
import torch

from vertebra.heads.anchors import Anchors
from vertebra.heads.atss import ATSSHead
from vertebra.structures import Level, Target
from vertebra.tasks.detection.atss import ATSS

CELLS = (8, 4, 2, 1, 1)
BOXES = ([-4.0, -4, 60, 60], [2.0, -4, 60, 60])
"""The anchor of the finest level at (28, 28), and a box that it overlaps by 58 / 64, where its centerness is
(26 / 32) ** 0.5. It is the only positive of both, if there is one candidate per level."""


@pytest.fixture
def head():
    levels = [Level(8 << i, 4) for i in range(5)]
    return ATSSHead(levels, 2, anchors=Anchors(ratios=(1.0,)), topk=1, norm=False)


def outputs(batch):
    """Logits and deltas of zero, and centerness logits of two."""
    return [
        (torch.zeros(batch, 2, n, n), torch.zeros(batch, 4, n, n), torch.full((batch, 1, n, n), 2.0)) for n in CELLS
    ]


def target(*boxes):
    return Target(
        boxes=torch.tensor(boxes).view(-1, 4), labels=torch.ones(len(boxes), dtype=torch.int64), size=(64, 64)
    )


def test_loss(head):
    raw = outputs(2)
    raw[0][1][0, 0, 3, 3] = 2.5  # a quarter of the side to the right: 48 pixels of 80 overlap
    losses = head.loss(raw, [target(box) for box in BOXES], (64, 64))
    values = 2 * sum(n * n for n in CELLS) * 2  # two of them of positives
    focal = (2 * 0.25 + (values - 2) * 0.75) * 0.25 * math.log(2)
    assert float(losses["classification"]) == pytest.approx(focal / 2)
    weight = (26 / 32) ** 0.5
    assert float(losses["box"]) == pytest.approx(2 * (0.4 + weight * 6 / 64) / (1 + weight))  # IoU and GIoU are equal
    softplus = math.log1p(math.exp(2))
    assert float(losses["centerness"]) == pytest.approx((2 * softplus - 2 - 2 * weight) / 2)


def test_normalisers_are_at_least_one(head):
    losses = head.loss(outputs(1), [target(BOXES[1])], (64, 64))
    assert float(losses["box"]) == pytest.approx(2 * (26 / 32) ** 0.5 * (6 / 64))
    losses = head.loss(outputs(1), [target()], (64, 64))
    assert float(losses["classification"]) == pytest.approx(2 * sum(n * n for n in CELLS) * 0.75 * 0.25 * math.log(2))
    assert float(losses["box"]) == float(losses["centerness"]) == 0


def test_every_level_has_a_scale(head):
    with torch.no_grad():
        head.deltas.bias.fill_(1.0)
        for i, scale in enumerate(head.scales):
            scale.fill_(i + 1.0)
        raw = head([torch.zeros(1, 4, n, n) for n in CELLS])
    assert [float(deltas.mean()) for _, deltas, _ in raw] == [1, 2, 3, 4, 5]


def test_deltas_are_divided_by_the_usual_weights(head):
    """Deltas of 5 ln 2 for the width and 2.5 for x: twice the width, a quarter of the side to the right."""
    raw = outputs(1)
    raw[0][1][0, :, 3, 3] = torch.tensor([2.5, 0, 5 * math.log(2), 0])
    grids = head.grids(raw, (64, 64))
    flat = tuple(x for maps, grid in zip(raw, grids, strict=True) for x in (*maps, grid))
    (level, *_) = ATSS.dense_levels(None, flat, 0)
    assert level.boxes(torch.tensor([3 * 8 + 3])).tolist()[0] == pytest.approx([-20, -4, 108, 60])
    assert level.quality.shape == (1, 8, 8)
