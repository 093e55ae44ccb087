"""The region proposal network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from vertebra.nn import init
from vertebra.nn.conv import ConvNorm
from vertebra.ops.anchors import pyramid_anchors
from vertebra.ops.boxes import decode, encode, valid
from vertebra.ops.match import IGNORED, match, sample
from vertebra.structures import Level, Target
from vertebra.weights import Fix, Rename

Size = tuple[int, int]


def ratio_major(x: Tensor, sides: int, values: int) -> Tensor:
    """A layer's rows [sides ratios values, ...] as Detectron2 orders anchors, for three ratios, in our order."""
    return x if sides == 1 else x.unflatten(0, (sides, 3, values)).transpose(0, 1).flatten(0, 2)


class RPN(nn.Module):
    """Says of every anchor whether an object is near and where: maps [B, C, h, w] -> boxes [N_i, 4] of each picture.

    Source: Faster R-CNN, arXiv:1506.01497, section 3.1; over a pyramid, arXiv:1612.03144, section 4.1.
    """

    RULES = {  # noqa: RUF012
        "torchvision": (
            Rename(r"^rpn\.head\.conv\.(?=weight|bias)", "rpn.convs.0.conv."),  # files from before torchvision 0.13
            Rename(r"^rpn\.head\.conv\.(\d)\.0\.", r"rpn.convs.\1.conv."),
            Rename(r"^rpn\.head\.cls_logits\.", "rpn.objectness."),
            Rename(r"^rpn\.head\.bbox_pred\.", "rpn.deltas."),
        ),
        "mmdet": (
            Rename(r"^rpn_head\.rpn_conv\.conv\.", "rpn.convs.0.conv."),
            Rename(r"^rpn_head\.rpn_conv\.(\d)\.conv\.", r"rpn.convs.\1.conv."),
            Rename(r"^rpn_head\.rpn_conv\.", "rpn.convs.0.conv."),
            Rename(r"^rpn_head\.rpn_cls\.", "rpn.objectness."),
            Rename(r"^rpn_head\.rpn_reg\.", "rpn.deltas."),
        ),
        "detectron2": (
            Rename(r"^proposal_generator\.rpn_head\.conv\.conv(\d)\.", r"rpn.convs.\1.conv."),
            Rename(r"^proposal_generator\.rpn_head\.conv\.", "rpn.convs.0.conv."),
            Rename(r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.objectness."),
            Rename(r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.deltas."),
            Fix(r"^rpn\.objectness\.", lambda x: ratio_major(x, x.shape[0] // 3, 1), "anchors by side -> by ratio"),
            Fix(r"^rpn\.deltas\.", lambda x: ratio_major(x, x.shape[0] // 12, 4), "anchors by side -> by ratio"),
        ),
    }

    def __init__(self, levels: Sequence[Level], sides: Sequence[Sequence[float]], config: Any) -> None:
        """`sides` are the anchors' on each level, in input pixels."""
        super().__init__()
        channels = levels[0].channels
        self.config, self.sides, self.strides = config, sides, [level.stride for level in levels]
        anchors = len(sides[0]) * len(config.anchor_ratios)
        self.convs = nn.Sequential(*(ConvNorm(channels, channels, 3, norm=False) for _ in range(config.rpn_convs)))
        self.objectness = nn.Conv2d(channels, anchors, 1)
        self.deltas = nn.Conv2d(channels, 4 * anchors, 1)
        init.fill([*self.convs, self.objectness, self.deltas], init.normal)

    def forward(self, maps: Sequence[Tensor], sizes: Sequence[Size], extent: Size) -> list[Tensor]:
        """Proposals [N_i, 4], best first, in pictures of `sizes` within an input of (height, width) `extent`."""
        raw = self.raw(maps)
        return self.propose(raw, self.anchors(raw, extent), sizes)

    def raw(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Logits [B, A, h, w] and deltas [B, 4 A, h, w] of each level."""
        found = [self.convs(x) for x in maps]
        return [(self.objectness(x), self.deltas(x)) for x in found]

    def anchors(self, raw: Sequence[tuple[Tensor, Tensor]], extent: Size) -> list[Tensor]:
        """[h w A, 4] of each level."""
        return pyramid_anchors([logits for logits, _ in raw], self.strides, self.sides, extent, self.config)

    @torch.no_grad()
    def propose(
        self, raw: Sequence[tuple[Tensor, Tensor]], anchors: Sequence[Tensor], sizes: Sequence[Size]
    ) -> list[Tensor]:
        """The best boxes after non-maximum suppression on each level: [N_i, 4] of each picture, best first."""
        config, pyramid = self.config, len(anchors) > 1
        if self.training:
            most, candidates = config.proposals_train, config.candidates_train or (2000 if pyramid else 12000)
        else:
            most = config.proposals_test or (1000 if pyramid else 300)
            candidates = config.candidates_test or (1000 if pyramid else 6000)
        logits, boxes, levels = [], [], []
        for i, ((scores, deltas), grid) in enumerate(zip(flat(raw), anchors, strict=True)):
            top, index = scores.topk(min(candidates, scores.shape[1]))  # [B, k]
            chosen = deltas.gather(1, index[..., None].expand(-1, -1, 4))
            decoded = decode(chosen.float().flatten(0, 1), grid[index.flatten()]).view_as(chosen)
            logits.append(top.float())
            boxes.append(decoded)
            levels.append(torch.full_like(top, i, dtype=torch.int64))
        results = []
        for score, box, level, size in zip(
            torch.cat(logits, 1), torch.cat(boxes, 1), torch.cat(levels, 1), sizes, strict=True
        ):
            box = clip_boxes_to_image(box, size)
            kept = remove_small_boxes(box, 1e-3)
            box, score, level = box[kept], score[kept], level[kept]
            results.append(box[batched_nms(box, score.sigmoid(), level, config.rpn_nms)[:most]])
        return results

    def loss(
        self, maps: Sequence[Tensor], targets: Sequence[Target], extent: Size
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals to go on with, and the terms `objectness` and `rpn_box`."""
        config, raw = self.config, self.raw(maps)
        anchors = self.anchors(raw, extent)
        proposals = self.propose(raw, anchors, [target.size or extent for target in targets])
        every = torch.cat(anchors)
        logits, deltas = (torch.cat(each, 1).float() for each in zip(*flat(raw), strict=True))
        chosen_logits, chosen_labels, chosen_deltas, wanted = [], [], [], []
        for i, target in enumerate(targets):
            assert target.boxes is not None
            kept, crowds = valid(target)
            truth = target.boxes[kept]
            matches = torch.full((len(every),), IGNORED, device=every.device)
            used = inside(every, target.size or extent) if config.rpn_inside else slice(None)
            matches[used] = match(every[used], truth, crowds, high=0.7, low=0.3, nearest=config.rpn_nearest)
            objects, background = sample(matches, config.rpn_batch, 0.5)
            index = torch.cat((objects, background))
            chosen_logits.append(logits[i, index])
            chosen_labels.append((matches[index] >= 0).float())
            chosen_deltas.append(deltas[i, objects])
            wanted.append(encode(truth[matches[objects]], every[objects]))
        labels = torch.cat(chosen_labels)
        count = max(1, len(labels))
        objectness = binary_cross_entropy_with_logits(torch.cat(chosen_logits), labels, reduction="sum") / count
        box = smooth_l1_loss(torch.cat(chosen_deltas), torch.cat(wanted), beta=config.rpn_beta, reduction="sum") / count
        return proposals, {"objectness": objectness, "rpn_box": box}


def inside(anchors: Tensor, size: Size) -> Tensor:
    """Which of [N, 4] lie in a picture of (height, width) `size`: [N] bool."""
    return (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] < size[1]) & (anchors[:, 3] < size[0])


def flat(raw: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Logits [B, A, h, w] and deltas [B, 4 A, h, w] in the order of the anchors: [B, h w A] and [B, h w A, 4]."""
    return [(by_anchor(logits, 1)[..., 0], by_anchor(deltas, 4)) for logits, deltas in raw]


def by_anchor(x: Tensor, values: int) -> Tensor:
    """Answers [B, A values, h, w] in the order of the anchors: [B, h w A, values]."""
    return x.unflatten(1, (-1, values)).permute(0, 3, 4, 1, 2).flatten(1, 3)
