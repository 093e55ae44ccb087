"""What a cascade and the proposal network learn from."""

from types import SimpleNamespace

import torch

import vertebra
from vertebra.heads.regions import draw
from vertebra.heads.rpn import inside
from vertebra.structures import Preprocess, Target

TRUTH = torch.tensor([[10.0, 10.0, 50.0, 40.0], [30.0, 20.0, 60.0, 60.0]])
TARGET = Target(boxes=TRUTH, labels=torch.tensor([0, 1]), size=(64, 64))


def test_objects_own_boxes_are_marked():
    proposals = torch.tensor([[11.0, 10.0, 50.0, 41.0], [0.0, 0.0, 9.0, 9.0]])
    (samples,) = draw([proposals], [TARGET], 2, iou=0.5, count=8, positive=1.0)
    assert samples.given.tolist() == [False, True, True, False]
    assert torch.equal(samples.boxes[samples.given], TRUTH)


def test_a_cascade_draws_objects_own_boxes_anew_in_every_stage():
    options = {"backbone_options": {"depths": (1, 1, 1, 1)}, "preprocess": Preprocess((64, 64), resize="shortest")}
    task = vertebra.create("detection", classes=2, method="cascade_rcnn", channels=8, box_width=8, **options)
    for head in task.box:
        torch.nn.init.constant_(head.deltas.bias, 0.3)  # every box moves
    drawn, terms = task.box.loss(
        lambda boxes: torch.zeros(sum(len(each) for each in boxes), 8, 7, 7), [torch.zeros(0, 4)], [TARGET], [(64, 64)]
    )
    assert len(terms) == 6
    for (samples,) in drawn:
        assert torch.equal(samples.boxes, TRUTH)


def test_anchors_inside_the_picture():
    anchors = torch.tensor([[0.0, 0.0, 9.0, 5.0], [-1.0, 0.0, 5.0, 5.0], [0.0, 0.0, 10.0, 5.0], [0.0, 2.0, 5.0, 6.0]])
    assert inside(anchors, (6, 10)).tolist() == [True, False, False, False]


def test_anchors_outside_are_not_learned_from():
    """With one level of four anchors' cells, of which only those inside count."""
    options = {"backbone_options": {"depths": (1, 1, 1, 1)}, "preprocess": Preprocess((64, 64), resize="shortest")}
    maps = [torch.randn(1, 8, 16 // 2**i, 16 // 2**i, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    found = {}
    for only in (False, True):
        torch.manual_seed(0)
        task = vertebra.create("detection", classes=2, channels=8, box_width=8, rpn_inside=only, **options)
        task.rpn.config = SimpleNamespace(**{**vars(task.config), "rpn_batch": 10**6})  # all that may be drawn
        with torch.no_grad():
            found[only] = task.rpn.loss(maps, [TARGET], (64, 64))[1]["objectness"]
            anchors = torch.cat(task.rpn.anchors(task.rpn.raw(maps), (64, 64)))
            logits = torch.cat([x.permute(0, 2, 3, 1).flatten() for x, _ in task.rpn.raw(maps)])
    kept = inside(anchors, (64, 64))
    assert 0 < int(kept.sum()) < len(kept)
    assert found[True] != found[False]
    # Of the anchors inside none is like an object but the nearest, and all others are background.
    background = torch.nn.functional.softplus(logits[kept]).mean()
    assert abs(float(found[True] - background)) < 0.05
