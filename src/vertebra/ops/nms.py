"""Non-maximum suppression with a fixed number of results, for exported programs.

torchvision.ops.batched_nms, which is used elsewhere, has a branch on its input and a loop over the classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms


def nms_top_k(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, k: int) -> tuple[Tensor, Tensor]:
    """The `k` top-scoring boxes after non-maximum suppression within each class.

    Args:
        boxes: [N, 4] x1, y1, x2, y2 in pixels.
        scores: [N]; a box of score -inf is never kept.
        labels: [N] int64.
        iou_threshold: of two boxes of a class that overlap by more, the one with the lower score is removed.
        k: number of results.

    Returns:
        [k] int64 indices into `boxes` by descending score, and [k] bool, whether the slot holds a box.
    """
    if len(boxes) < k:  # so that there are k slots
        missing = k - len(boxes)
        boxes = torch.cat((boxes, boxes.new_zeros(missing, 4)))
        scores = torch.cat((scores, scores.new_full((missing,), -torch.inf)))
        labels = torch.cat((labels, labels.new_zeros(missing)))
    offsets = labels.to(boxes) * (boxes.max() + 1)  # boxes of different classes do not overlap
    kept = nms(boxes + offsets[:, None], scores, iou_threshold)
    survives = torch.zeros_like(scores, dtype=torch.bool).index_fill(0, kept, True)
    top, index = torch.where(survives, scores, -torch.inf).topk(k)
    return index, top > -torch.inf
