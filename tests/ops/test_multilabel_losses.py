"""Losses of several classes per image, by hand."""

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from vertebra.ops.multilabel import asymmetric_loss, multi_hot, tag_cross_entropy


def test_multi_hot():
    empty, both = torch.zeros(0, dtype=torch.int64), torch.tensor([0, 2])
    assert multi_hot([empty, both], 3).tolist() == [[0, 0, 0], [1, 0, 1]]
    soft = torch.tensor([0.25, 0.0, 1.0])
    assert multi_hot([soft], 3).tolist() == [soft.tolist()]
    with pytest.raises(IndexError, match="out of bounds"):
        multi_hot([torch.tensor([3])], 3)


def test_asymmetric_loss_by_hand():
    logits = torch.logit(torch.tensor([[0.8, 0.8, 0.04]]))
    targets = torch.tensor([[1.0, 0.0, 0.0]])
    losses = asymmetric_loss(logits, targets, gamma_negative=2.0, gamma_positive=1.0, margin=0.05)
    expected = [-0.2 * math.log(0.8), -(0.75**2) * math.log(0.25), 0.0]  # the last lies within the margin
    assert losses[0].tolist() == pytest.approx(expected, abs=1e-6)
    soft = asymmetric_loss(logits, torch.full((1, 3), 0.25), gamma_negative=2.0, gamma_positive=1.0)
    assert float(soft[0, 0]) == pytest.approx(0.25 * expected[0] + 0.75 * expected[1], abs=1e-6)


def test_asymmetric_loss_without_focus_is_binary_cross_entropy():
    logits, targets = torch.tensor([[-90.0, -2.0, 0.5, 90.0]]), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    plain = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(asymmetric_loss(logits, targets, 0.0, 0.0, 0.0), plain)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 4.0])
@pytest.mark.parametrize("margin", [0.0, 0.05, 1.0])
def test_gradients_are_finite_at_the_ends(gamma, margin):
    logits = torch.tensor([[-200.0, -3.0, 0.0, 200.0]] * 2, requires_grad=True)
    targets = torch.tensor([[1.0] * 4, [0.0] * 4])
    asymmetric_loss(logits, targets, gamma, gamma, margin).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_tags_share_the_target_equally():
    logits = torch.tensor([[0.25, 0.25, 0.5]]).log()
    expected = -(math.log(0.25) + math.log(0.5)) / 2
    assert float(tag_cross_entropy(logits, torch.tensor([[1.0, 0.0, 1.0]]))) == pytest.approx(expected)
    weighted = tag_cross_entropy(logits, torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([2.0, 1.0, 1.0]))
    assert float(weighted) == pytest.approx(-(2 * math.log(0.25) + math.log(0.5)) / 2)


def test_images_without_a_tag_do_not_count():
    logits = torch.tensor([[0.0, math.log(3)], [5.0, 1.0]], requires_grad=True)
    loss = tag_cross_entropy(logits, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    assert float(loss.detach()) == pytest.approx(-math.log(0.75))
    nothing = tag_cross_entropy(logits, torch.zeros(2, 2))
    nothing.backward()
    assert (float(nothing.detach()), float(logits.grad.abs().sum())) == (0.0, 0.0)
