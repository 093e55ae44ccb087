"""What a cascade and the region proposal network are trained on."""

import torch

import vertebra
from vertebra.heads.roi import sample_rois
from vertebra.ops.boxes import inside_image
from vertebra.structures import Preprocess, Target

BOXES = torch.tensor([[10.0, 10.0, 50.0, 40.0], [30.0, 20.0, 60.0, 60.0]])
TARGET = Target(boxes=BOXES, labels=torch.tensor([0, 1]), size=(64, 64))
SMALL = {
    "classes": 2,
    "backbone_options": {"depths": (1, 1, 1, 1)},
    "preprocess": Preprocess((64, 64), resize="shortest"),
    "neck": {"channels": 8},
    "box_width": 8,
}


def test_ground_truth_boxes_are_marked():
    proposals = torch.tensor([[11.0, 10.0, 50.0, 41.0], [0.0, 0.0, 9.0, 9.0]])
    (samples,) = sample_rois([proposals], [TARGET], 2, iou=0.5, batch_size=8, positive_fraction=1.0)
    assert samples.is_gt.tolist() == [False, True, True, False]
    assert torch.equal(samples.boxes[samples.is_gt], BOXES)
    assert samples.indices.tolist() == [0, 0, 1]
    assert torch.equal(samples.gt_boxes, BOXES[[0, 0, 1]])


def test_a_cascade_samples_ground_truth_boxes_anew_in_every_stage():
    task = vertebra.create("detection", method="cascade_rcnn", **SMALL)
    for head in task.box:
        torch.nn.init.constant_(head.deltas.bias, 0.3)  # every box moves
    stages, terms, logits = task.box.loss(
        lambda boxes: torch.zeros(sum(len(image_boxes) for image_boxes in boxes), 8, 7, 7),
        [torch.zeros(0, 4)],
        [TARGET],
        [(64, 64)],
        batch_size=512,
        positive_fraction=0.25,
    )
    assert len(terms) == 6
    assert [len(x) for x in logits] == [len(BOXES)] * 3
    assert len(stages) == 3
    for (samples,) in stages:
        assert torch.equal(samples.boxes, BOXES)


def test_anchors_outside_the_image_are_ignored():
    """With all anchors sampled, of which only those inside count."""
    maps = [torch.randn(1, 8, 16 // 2**i, 16 // 2**i, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    losses = {}
    for inside_only in (False, True):
        torch.manual_seed(0)
        task = vertebra.create("detection", rpn_inside_only=inside_only, rpn_batch_size=10**6, **SMALL)
        with torch.no_grad():
            losses[inside_only] = task.rpn.loss(maps, [TARGET], (64, 64))[1]["objectness"]
            raw = task.rpn.raw(maps)
            anchors = torch.cat(task.rpn.grids(raw, (64, 64)))
            logits = torch.cat([x.permute(0, 2, 3, 1).flatten() for x, _ in raw])
    inside = inside_image(anchors, (64, 64))
    assert 0 < int(inside.sum()) < len(inside)
    assert losses[True] != losses[False]
    # Few of the anchors inside are matched to an object; all others are background.
    background = torch.nn.functional.softplus(logits[inside]).mean()
    assert abs(float(losses[True] - background)) < 0.05


def test_the_options_of_a_part_are_those_of_its_model():
    task = vertebra.create("detection", anchors={"scale": 4.0, "ratios": (1.0,)}, rpn_num_convs=2, **SMALL)
    assert task.rpn.sides == [[16], [32], [64], [128], [256]]
    assert task.rpn.objectness.out_channels == 1
    assert len(task.rpn.convs) == 2
