"""Non-maximum suppression with a fixed number of results equals torchvision's."""

import pytest
import torch
from torchvision.ops import batched_nms

from vertebra.ops.nms import nms_top_k


def random_boxes(count, num_classes, seed):
    """Overlapping boxes [N, 4], scores [N] without ties, and labels [N]."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 30
    boxes = torch.cat((corners, corners + 5 + torch.rand(count, 2, generator=generator) * 30), 1)
    scores = torch.randperm(count, generator=generator).float() / count
    return boxes, scores, torch.randint(0, num_classes, (count,), generator=generator)


@pytest.mark.parametrize("num_classes", [1, 3, 8])
@pytest.mark.parametrize("iou_threshold", [0.3, 0.7])
def test_the_same_boxes_are_kept(num_classes, iou_threshold):
    for seed in range(5):
        boxes, scores, labels = random_boxes(200, num_classes, seed)
        expected = batched_nms(boxes, scores, labels, iou_threshold)
        assert 10 < len(expected) < 200
        for k in (5, len(expected), 200):
            index, valid = nms_top_k(boxes, scores, labels, iou_threshold, k)
            assert index.shape == valid.shape == (k,)
            assert torch.equal(index[valid], expected[:k])
            assert valid.tolist() == sorted(valid.tolist(), reverse=True)  # empty slots are the last


def test_boxes_of_other_classes_are_kept():
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 3)
    index, valid = nms_top_k(boxes, torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 1, 0]), 0.5, 3)
    assert index[valid].tolist() == [1, 2]


def test_fewer_boxes_than_slots():
    boxes, scores, labels = random_boxes(4, 2, 0)
    expected = batched_nms(boxes, scores, labels, 0.5)
    index, valid = nms_top_k(boxes, scores, labels, 0.5, 9)
    assert index.shape == valid.shape == (9,)
    assert torch.equal(index[valid], expected)


def test_scores_of_minus_infinity_are_never_kept():
    boxes, scores, labels = random_boxes(30, 2, 1)
    removed = torch.arange(30) % 3 == 0
    index, valid = nms_top_k(boxes, torch.where(removed, -torch.inf, scores), labels, 0.5, 30)
    left = torch.where(~removed)[0]
    assert torch.equal(index[valid], left[batched_nms(boxes[left], scores[left], labels[left], 0.5)])
    _, valid = nms_top_k(boxes, torch.full_like(scores, -torch.inf), labels, 0.5, 30)
    assert not valid.any()


def test_no_boxes_at_all():
    index, valid = nms_top_k(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5, 3)
    assert index.shape == (3,)
    assert not valid.any()
