"""Losses of label maps, worked by hand."""

import math

import pytest
import torch
from torch.nn import functional

from vertebra.ops.pixel_losses import binary_loss, cross_entropy, dice_loss, focal_loss, iou_loss, lovasz_loss

LOGITS = torch.tensor([[[[2.0, 0.0, -1.0]], [[0.0, 0.0, 1.0]]]])  # [1, 2, 1, 3]
LABELS = torch.tensor([[[0, 1, 255]]])
P = [1 / (1 + math.exp(-2.0)), 0.5]  # of the target classes


def test_cross_entropy_leaves_ignored_pixels_out():
    expected = -(math.log(P[0]) + math.log(P[1])) / 2
    assert cross_entropy(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-5)
    weight = torch.tensor([1.0, 3.0])
    weighted = -(math.log(P[0]) + 3 * math.log(P[1])) / 4
    assert cross_entropy(LOGITS, LABELS, weight=weight).item() == pytest.approx(weighted, rel=1e-5)
    assert cross_entropy(LOGITS, torch.full_like(LABELS, 255)).item() == 0


def test_mining_keeps_the_hard_pixels():
    hard = -math.log(P[1])
    assert cross_entropy(LOGITS, LABELS, ohem=0.7, min_kept=1).item() == pytest.approx(hard, rel=1e-5)
    both = (hard - math.log(P[0])) / 2
    assert cross_entropy(LOGITS, LABELS, ohem=0.7, min_kept=2).item() == pytest.approx(both, rel=1e-5)
    assert cross_entropy(LOGITS, torch.full_like(LABELS, 255), ohem=0.7).item() == 0


def test_focal_and_dice():
    focal = sum(-((1 - p) ** 2) * math.log(p) for p in P) / 2
    assert focal_loss(LOGITS, LABELS).item() == pytest.approx(focal, rel=1e-5)
    dice = [2 * P[0] / (P[0] + 0.5 + 1), 2 * 0.5 / (1 - P[0] + 0.5 + 1)]
    assert dice_loss(LOGITS, LABELS).item() == pytest.approx(1 - sum(dice) / 2, rel=1e-5)


def test_lovasz_is_one_minus_the_iou_of_certain_predictions():
    labels = torch.tensor([[[0, 0, 1, 1, 1, 255]]])
    predicted = torch.tensor([[[0, 1, 1, 1, 0, 0]]])
    logits = 200 * functional.one_hot(predicted, 2).permute(0, 3, 1, 2).float()
    assert lovasz_loss(logits, labels).item() == pytest.approx(1 - (1 / 3 + 2 / 4) / 2, rel=1e-5)


@pytest.mark.parametrize("loss", [cross_entropy, focal_loss, dice_loss, lovasz_loss, binary_loss, iou_loss])
def test_a_batch_that_is_ignored_as_a_whole_teaches_nothing(loss):
    logits = LOGITS.clone() if loss not in (binary_loss, iou_loss) else LOGITS[:, 0].clone()
    value = loss(logits.requires_grad_(), torch.full_like(LABELS, 255))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


def test_binary_losses():
    logits = torch.tensor([[[0.0, 2.0, 5.0]]])
    labels = torch.tensor([[[1, 0, 255]]])
    expected = (math.log(2) + math.log(1 + math.exp(2))) / 2
    assert binary_loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)
    union = 0.5 + P[0] + 1 - 0.5
    assert iou_loss(logits, labels).item() == pytest.approx(1 - (0.5 + 1) / (union + 1), rel=1e-5)
