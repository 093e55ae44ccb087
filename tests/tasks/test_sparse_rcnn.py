"""Sparse R-CNN: detections from raw predictions, and what is particular to it."""

import json
import math

import pytest
import torch
from torch import nn

import vertebra
from vertebra.errors import VertebraError
from vertebra.ledger.fabricate import fabricate_state
from vertebra.structures import Frame

FRAME = Frame((200, 100), (64, 32))  # 3.125 pixels for one of the input's


def test_the_highest_scores_are_kept_without_nms(make):
    """Of two equal boxes with two classes, three scores; boxes are clipped to the image, not to its padding."""
    model = make(method="sparse_rcnn", max_detections=3)
    logits = torch.tensor([[[2.0, 1.0], [3.0, -9.0]]])
    boxes = torch.tensor([[[0.0, 0, 16, 16], [0.0, 0, 16, 16]]])
    (prediction,) = model.decode((logits, boxes), [FRAME])
    assert prediction.scores.tolist() == pytest.approx([1 / (1 + math.exp(-x)) for x in (3, 2, 1)])
    assert prediction.labels.tolist() == [0, 0, 1]
    assert prediction.boxes.tolist() == [[0, 0, 50, 50]] * 3
    (prediction,) = model.decode((logits, boxes * 4), [FRAME])
    assert prediction.boxes.tolist() == [[0, 0, 100, 200]] * 3
    (prediction,) = model.decode((logits, boxes + 64), [FRAME])  # outside
    assert prediction.boxes.shape == (0, 4)


def test_scores_at_the_threshold_are_removed(make):
    model = make(method="sparse_rcnn", score_threshold=0.5)
    logits, boxes = torch.tensor([[[0.0, 0.1]]]), torch.tensor([[[0.0, 0, 16, 16]]])
    (prediction,) = model.decode((logits, boxes), [FRAME])
    assert prediction.labels.tolist() == [1]


def test_options_that_it_has_not(make):
    for option in ("nms_threshold", "head_norm"):
        with pytest.raises(VertebraError, match=f"sparse_rcnn has no option {option}"):
            make(method="sparse_rcnn", **{option: 0.5})
    with pytest.raises(VertebraError, match="heads is 8; it must be a divisor of the width 20"):
        make(method="sparse_rcnn", neck={"channels": 20})


def test_the_pyramid_has_four_levels(make):
    model = make(method="sparse_rcnn", backbone="hrnet_w18_small_v1", neck={"name": "hrfpn", "channels": 16})
    assert [level.stride for level in model.neck.levels] == [4, 8, 16, 32]


def test_parameters_of_the_papers_model():
    """Per stage: attention 4 C (C + 1), dynamic convolution 2 C D (C + 1) + C (49 C + 1), feed-forward network
    F (2 C + 1) + C, towers 4 C C, predictions (K + 4) (C + 1), and 9 C + D channels of norms."""
    with torch.device("meta"):
        model = vertebra.create("detection", method="sparse_rcnn", classes=80)
    c, d, f, k = 256, 64, 2048, 80
    stage = 4 * c * (c + 1) + 2 * c * d * (c + 1) + c * (49 * c + 1) + f * (2 * c + 1) + c + 4 * c * c
    stage += (k + 4) * (c + 1) + 2 * (9 * c + d)
    assert sum(p.numel() for p in model.dynamic.parameters()) == 6 * stage + 100 * (c + 4)


def test_half_precision_has_losses_of_full_precision(make):
    from test_detectors import target

    model = make(method="sparse_rcnn").train()
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.loss(torch.randn(1, 3, 64, 64), [target([[4, 4, 30, 40]])])
    assert {term.dtype for term in terms.values()} == {torch.float32}
    assert all(math.isfinite(term) for term in terms.values())


def test_a_file_with_mask_heads_detects(tmp_path):
    """QueryInst of MMDetection is Sparse R-CNN with a mask head for every stage."""
    from make_detector_references import FOLDER

    rows = json.loads((FOLDER / "mmdet-sparse_rcnn.json").read_text())["state"]
    rows = [row[:2] for row in rows] + [["roi_head.mask_head.0.conv_logits.bias", [3]]]
    torch.save({"state_dict": fabricate_state(rows)}, tmp_path / "a.pth")
    model = vertebra.create("detection", weights=tmp_path / "a.pth")
    assert (model.method, model.config.backbone) == ("sparse_rcnn", "resnet18")
    assert (model.config.num_proposals, model.config.max_detections, model.config.num_stages) == (20, 20, 3)
    assert model.report.left_out["roi_head.mask_head.0.conv_logits.bias"] == "this model predicts no masks"
    assert isinstance(model.dynamic.stages[0].classify, nn.Linear)
    with pytest.raises(VertebraError, match="this is a checkpoint of sparse_rcnn: it fits detection, not instance"):
        vertebra.create("instance", weights=tmp_path / "a.pth")
