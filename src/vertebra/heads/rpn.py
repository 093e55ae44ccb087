"""The region proposal network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad, smooth_l1_loss
from torchvision.ops import batched_nms, remove_small_boxes

from vertebra.errors import in_range
from vertebra.heads.anchors import Anchors, flatten_anchors, ratio_major
from vertebra.heads.roi import Size
from vertebra.nn import init
from vertebra.nn.conv import ConvNorm
from vertebra.ops.boxes import clip, decode, encode, inside_image, split_crowd
from vertebra.ops.match import IGNORED, match, sample
from vertebra.ops.nms import nms_top_k
from vertebra.options import adjustable
from vertebra.structures import Level, Target
from vertebra.weights import Fix, Rename

MIN_SIZE = 1e-3
"""Proposals with a side below this, in input pixels, are removed."""


@dataclass(frozen=True)
class RPNConfig:
    """Options of the region proposal network."""

    anchors: Anchors = Anchors()
    """Anchors over the pyramid."""
    rpn_pre_nms_top_n_train: int = 2000
    """Top-scoring anchors kept per level before NMS in training."""
    rpn_pre_nms_top_n_test: int = adjustable(1000)
    """Top-scoring anchors kept per level before NMS at test."""
    rpn_post_nms_top_n_train: int = 2000
    """Proposals kept per image after NMS in training."""
    rpn_post_nms_top_n_test: int = adjustable(1000)
    """Proposals kept per image after NMS at test."""
    rpn_nms_threshold: float = 0.7
    """IoU threshold of non-maximum suppression of proposals."""
    rpn_num_convs: int = 1
    """3x3 convolutions before the predictions."""
    rpn_batch_size: int = 256
    """Anchors sampled per image for training."""
    rpn_low_quality_iou: float = 0.0
    """Each ground-truth box is also matched to the anchors that overlap it most, if by at least this IoU."""
    rpn_inside_only: bool = False
    """Train only on anchors that lie inside the image, as in the original Faster R-CNN."""
    rpn_beta: float = 1 / 9
    """Where the smooth L1 loss of proposals turns from quadratic to linear; 0 is L1."""

    def __post_init__(self) -> None:
        for name in (
            *(f"rpn_{stage}_nms_top_n_{mode}" for stage in ("pre", "post") for mode in ("train", "test")),
            "rpn_batch_size",
        ):
            in_range(name, getattr(self, name), 1, 1_000_000)
        for name in ("rpn_nms_threshold", "rpn_low_quality_iou"):
            in_range(name, getattr(self, name), 0, 1)
        in_range("rpn_num_convs", self.rpn_num_convs, 0, 100)
        in_range("rpn_beta", self.rpn_beta, 0, 1_000_000)


class RPN(nn.Module):
    """Objectness and box deltas of every anchor: maps [B, C, h, w] -> proposals [N_i, 4] of each image.

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

    def __init__(self, levels: Sequence[Level], sides: Sequence[Sequence[float]], config: RPNConfig) -> None:
        """`sides` are the anchors' on each level, in input pixels."""
        super().__init__()
        channels = levels[0].channels
        self.config, self.sides, self.strides = config, sides, [level.stride for level in levels]
        num_anchors = len(sides[0]) * len(config.anchors.ratios)
        self.convs = nn.Sequential(*(ConvNorm(channels, channels, 3, norm=False) for _ in range(config.rpn_num_convs)))
        self.objectness = nn.Conv2d(channels, num_anchors, 1)
        self.deltas = nn.Conv2d(channels, 4 * num_anchors, 1)
        init.fill([*self.convs, self.objectness, self.deltas], init.normal)

    def forward(self, maps: Sequence[Tensor], sizes: Sequence[Size], input_size: Size) -> list[Tensor]:
        """Proposals [N_i, 4] by descending score, in images of (height, width) `sizes` within an input of `input_size`.

        In exported programs every image has `rpn_post_nms_top_n_test` of them; empty boxes stand for missing ones.
        """
        raw = self.raw(maps)
        return self.propose(raw, self.grids(raw, input_size), sizes)

    def raw(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Logits [B, A, h, w] and deltas [B, 4 A, h, w] of each level."""
        features = [self.convs(x) for x in maps]
        return [(self.objectness(x), self.deltas(x)) for x in features]

    def grids(self, raw: Sequence[tuple[Tensor, Tensor]], input_size: Size) -> list[Tensor]:
        """Anchors [h w A, 4] of each level."""
        return self.config.anchors.grids([logits for logits, _ in raw], self.strides, self.sides, input_size)

    @torch.no_grad()
    def propose(
        self, raw: Sequence[tuple[Tensor, Tensor]], anchors: Sequence[Tensor], sizes: Sequence[Size]
    ) -> list[Tensor]:
        """The top-scoring boxes after non-maximum suppression on each level: [N_i, 4] of each image."""
        config = self.config
        if self.training:
            pre_nms, post_nms = config.rpn_pre_nms_top_n_train, config.rpn_post_nms_top_n_train
        else:
            pre_nms, post_nms = config.rpn_pre_nms_top_n_test, config.rpn_post_nms_top_n_test
        logits, boxes, levels = [], [], []
        for i, ((scores, deltas), grid) in enumerate(zip(flat(raw), anchors, strict=True)):
            if torch.compiler.is_compiling():  # the size of the image decides how many anchors there are
                scores = pad(scores, (0, pre_nms), value=-torch.inf)
                deltas, grid = pad(deltas, (0, 0, 0, pre_nms)), pad(grid, (0, 0, 0, pre_nms))  # which decode to no area
            top, index = scores.topk(min(pre_nms, scores.shape[1]))  # [B, k]
            selected = deltas.gather(1, index[..., None].expand(-1, -1, 4))
            decoded = decode(selected.float().flatten(0, 1), grid[index.flatten()]).view_as(selected)
            logits.append(top.float())
            boxes.append(decoded)
            levels.append(torch.full_like(top, i, dtype=torch.int64))
        results = []
        for score, box, level, size in zip(
            torch.cat(logits, 1), torch.cat(boxes, 1), torch.cat(levels, 1), sizes, strict=True
        ):
            box = clip(box, size)
            if torch.compiler.is_compiling():
                large = (box[:, 2:] - box[:, :2] >= MIN_SIZE).all(1)
                score = torch.where(large, score.sigmoid(), -torch.inf)
                kept, valid = nms_top_k(box, score, level, config.rpn_nms_threshold, post_nms)
                box = torch.cat((box, box.new_zeros(max(0, post_nms - len(box)), 4)))
                results.append(box[kept] * valid[:, None])
                continue
            kept = remove_small_boxes(box, MIN_SIZE)
            box, score, level = box[kept], score[kept], level[kept]
            results.append(box[batched_nms(box, score.sigmoid(), level, config.rpn_nms_threshold)[:post_nms]])
        return results

    def loss(
        self, maps: Sequence[Tensor], targets: Sequence[Target], input_size: Size
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals, and the terms `objectness` and `rpn_box`."""
        config, raw = self.config, self.raw(maps)
        grids = self.grids(raw, input_size)
        proposals = self.propose(raw, grids, [target.size or input_size for target in targets])
        anchors = torch.cat(grids)
        logits, deltas = (torch.cat(parts, 1).float() for parts in zip(*flat(raw), strict=True))
        sampled_logits, labels, positive_deltas, box_targets = [], [], [], []
        for i, target in enumerate(targets):
            assert target.boxes is not None
            instances, crowd_boxes = split_crowd(target)
            gt_boxes = target.boxes[instances]
            matches = torch.full((len(anchors),), IGNORED, device=anchors.device)
            used = inside_image(anchors, target.size or input_size) if config.rpn_inside_only else slice(None)
            matches[used] = match(
                anchors[used], gt_boxes, crowd_boxes, high=0.7, low=0.3, low_quality_iou=config.rpn_low_quality_iou
            )
            positive, background = sample(matches, config.rpn_batch_size, 0.5)
            index = torch.cat((positive, background))
            sampled_logits.append(logits[i, index])
            labels.append((matches[index] >= 0).float())
            positive_deltas.append(deltas[i, positive])
            box_targets.append(encode(gt_boxes[matches[positive]], anchors[positive]))
        label = torch.cat(labels)
        count = max(1, len(label))
        objectness = binary_cross_entropy_with_logits(torch.cat(sampled_logits), label, reduction="sum") / count
        box = smooth_l1_loss(torch.cat(positive_deltas), torch.cat(box_targets), beta=config.rpn_beta, reduction="sum")
        return proposals, {"objectness": objectness, "rpn_box": box / count}


def flat(raw: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Logits [B, A, h, w] and deltas [B, 4 A, h, w] in the order of the anchors: [B, h w A] and [B, h w A, 4]."""
    return [(flatten_anchors(logits, 1)[..., 0], flatten_anchors(deltas, 4)) for logits, deltas in raw]
