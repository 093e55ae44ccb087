"""Classes and boxes for every anchor of a pyramid, without proposals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, remove_small_boxes, sigmoid_focal_loss

from vertebra.heads.box import suppress
from vertebra.heads.regions import Detections
from vertebra.heads.rpn import Size, by_anchor, ratio_major
from vertebra.nn import init
from vertebra.nn.conv import ConvNorm
from vertebra.ops.anchors import pyramid_anchors
from vertebra.ops.boxes import decode, regression_loss, valid
from vertebra.ops.match import BACKGROUND, match
from vertebra.structures import Level, Target
from vertebra.weights import Fix, Rename


class DenseHead(nn.Module):
    """Two towers of convolutions: maps [B, C, h, w] -> of each, logits [B, A classes, h, w] and deltas [B, 4 A, h, w].

    Source: RetinaNet, arXiv:1708.02002, section 4.
    """

    RULES = {  # noqa: RUF012
        "torchvision": (
            # Files from before torchvision 0.13 count the activations too.
            Rename(
                r"^head\.classification_head\.conv\.(\d)\.(?=weight|bias)",
                lambda m: f"dense.classes.{int(m[1]) // 2}.conv.",
            ),
            Rename(
                r"^head\.regression_head\.conv\.(\d)\.(?=weight|bias)",
                lambda m: f"dense.boxes.{int(m[1]) // 2}.conv.",
            ),
            Rename(r"^head\.classification_head\.conv\.(\d)\.0\.", r"dense.classes.\1.conv."),
            Rename(r"^head\.classification_head\.conv\.(\d)\.1\.", r"dense.classes.\1.norm."),
            Rename(r"^head\.regression_head\.conv\.(\d)\.0\.", r"dense.boxes.\1.conv."),
            Rename(r"^head\.regression_head\.conv\.(\d)\.1\.", r"dense.boxes.\1.norm."),
            Rename(r"^head\.classification_head\.cls_logits\.", "dense.classify."),
            Rename(r"^head\.regression_head\.bbox_reg\.", "dense.deltas."),
        ),
        "mmdet": (
            Rename(r"^bbox_head\.cls_convs\.(\d)\.conv\.", r"dense.classes.\1.conv."),
            Rename(r"^bbox_head\.reg_convs\.(\d)\.conv\.", r"dense.boxes.\1.conv."),
            Rename(r"^bbox_head\.cls_convs\.(\d)\.(?:bn|gn)\.", r"dense.classes.\1.norm."),
            Rename(r"^bbox_head\.reg_convs\.(\d)\.(?:bn|gn)\.", r"dense.boxes.\1.norm."),
            Rename(r"^bbox_head\.retina_cls\.", "dense.classify."),
            Rename(r"^bbox_head\.retina_reg\.", "dense.deltas."),
        ),
        "detectron2": (
            Rename(r"^head\.cls_subnet\.(\d)\.", lambda m: f"dense.classes.{int(m[1]) // 2}.conv."),
            Rename(r"^head\.bbox_subnet\.(\d)\.", lambda m: f"dense.boxes.{int(m[1]) // 2}.conv."),
            Rename(r"^head\.cls_score\.", "dense.classify."),
            Rename(r"^head\.bbox_pred\.", "dense.deltas."),
            Fix(r"^dense\.classify\.", lambda x: ratio_major(x, 3, x.shape[0] // 9), "anchors by side -> by ratio"),
            Fix(r"^dense\.deltas\.", lambda x: ratio_major(x, 3, 4), "anchors by side -> by ratio"),
        ),
    }

    def __init__(self, levels: Sequence[Level], sides: Sequence[Sequence[float]], classes: int, config: Any) -> None:
        """`sides` are the anchors' on each level, in input pixels."""
        super().__init__()
        channels, norm = levels[0].channels, config.head_norm != "none"
        self.config, self.count = config, classes
        self.sides, self.strides = sides, [level.stride for level in levels]
        anchors = len(sides[0]) * len(config.anchor_ratios)
        self.classes = nn.Sequential(*(ConvNorm(channels, channels, 3, norm=norm) for _ in range(4)))
        self.boxes = nn.Sequential(*(ConvNorm(channels, channels, 3, norm=norm) for _ in range(4)))
        self.classify = nn.Conv2d(channels, anchors * classes, 3, padding=1)
        self.deltas = nn.Conv2d(channels, anchors * 4, 3, padding=1)
        init.fill([*self.classes, *self.boxes, self.classify, self.deltas], init.normal)
        assert self.classify.bias is not None
        nn.init.constant_(self.classify.bias, -math.log((1 - 0.01) / 0.01))  # section 4.1, "Initialization"

    def forward(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        return [(self.classify(self.classes(x)), self.deltas(self.boxes(x))) for x in maps]

    def anchors(self, raw: Sequence[tuple[Tensor, Tensor]], extent: Size) -> list[Tensor]:
        """[h w A, 4] of each level."""
        return pyramid_anchors([logits for logits, _ in raw], self.strides, self.sides, extent, self.config)

    def loss(self, raw: Sequence[tuple[Tensor, Tensor]], targets: Sequence[Target], extent: Size) -> dict[str, Tensor]:
        """The terms `classification` (focal) and `box`, over the number of anchors that have an object.

        Source: arXiv:1708.02002, sections 3.2 and 4.
        """
        every = torch.cat(self.anchors(raw, extent))
        logits = torch.cat([by_anchor(x, self.count) for x, _ in raw], 1).float()  # [B, anchors, classes]
        deltas = torch.cat([by_anchor(x, 4) for _, x in raw], 1).float()
        classification, box, count = logits.sum() * 0, logits.sum() * 0, 0
        for i, target in enumerate(targets):
            assert target.boxes is not None
            assert target.labels is not None
            kept, crowds = valid(target)
            truth, labels = target.boxes[kept], target.labels[kept]
            matches = match(every, truth, crowds, high=0.5, low=0.4, nearest=0.0)
            objects = torch.where(matches >= 0)[0]
            wanted = torch.zeros_like(logits[i])
            wanted[objects, labels[matches[objects]]] = 1.0
            learned = matches >= BACKGROUND
            found = sigmoid_focal_loss(logits[i, learned], wanted[learned], reduction="sum")
            own, beta = truth[matches[objects]], self.config.box_beta
            moved = regression_loss(self.config.box_loss, deltas[i, objects], own, every[objects], beta=beta)
            if self.config.loss_per_picture:
                found, moved = (each / max(1, len(objects)) / len(targets) for each in (found, moved))
            classification, box, count = classification + found, box + moved, count + len(objects)
        total = 1 if self.config.loss_per_picture else max(1, count)
        return {"classification": classification / total, "box": box / total}

    @torch.no_grad()
    def detect(self, raw: Sequence[tuple[Tensor, Tensor]], sizes: Sequence[Size], extent: Size) -> list[Detections]:
        """What is found in each picture of (height, width) `sizes`: of the likeliest answers of
        each level, what is left after non-maximum suppression."""
        config, grids = self.config, self.anchors(raw, extent)
        results = []
        for i, size in enumerate(sizes):
            scores, boxes, labels = [], [], []
            for (logits, deltas), anchors in zip(raw, grids, strict=True):
                score = by_anchor(logits[i : i + 1], self.count)[0].float().sigmoid().flatten()
                above = torch.where(score > config.score_threshold)[0]
                score, order = score[above].topk(min(config.candidates_test or 1000, len(above)))
                anchor, label = above[order] // self.count, above[order] % self.count
                move = by_anchor(deltas[i : i + 1], 4)[0, anchor].float()
                found = decode(move, anchors[anchor])
                boxes.append(found if config.clip_late else clip_boxes_to_image(found, size))
                scores.append(score)
                labels.append(label)
            kept = suppress(torch.cat(boxes), torch.cat(scores), torch.cat(labels), config)
            if config.clip_late:
                inside = clip_boxes_to_image(kept.boxes, size)
                large = remove_small_boxes(inside, config.least_side)
                kept = Detections(inside[large], kept.scores[large], kept.labels[large])
            results.append(kept)
        return results
