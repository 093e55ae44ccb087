"""Dynamic heads: learned proposals that a sequence of stages refines.

Shapes: B images, N proposals of each, R = B N RoIs, C channels, K classes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

from vertebra.attention.multi_head import SelfAttention
from vertebra.ops.boxes import decode, split_crowd
from vertebra.ops.match import in_crowd
from vertebra.ops.reduce import mean_over_processes
from vertebra.ops.set_matching import COSTS, match_one_to_one, set_cost
from vertebra.structures import Target
from vertebra.weights import Drop, Rename

ROI_SIZE = 7
BOX_WEIGHTS = (2.0, 2.0, 1.0, 1.0)
"""Factors of `ops.boxes.encode`."""
SCALE_CLAMP = math.log(100_000 / 16)
StagePrediction = tuple[Tensor, Tensor]
"""Logits [B, N, K] and boxes [B, N, 4] in input pixels, not clipped."""


class DynamicConv(nn.Module):
    """Two 1 x 1 convolutions of RoI features, whose weights are predicted from the proposal's features: [R, C] and
    [R, C, 7, 7] -> [R, C].

    Source: arXiv:2011.12450, section 3.1 ("Dynamic instance interactive head") and algorithm 1.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.weights = nn.Linear(channels, 2 * channels * hidden)
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(channels)
        self.project = nn.Linear(channels * ROI_SIZE**2, channels)
        self.norm3 = nn.LayerNorm(channels)

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        channels = features.shape[1]
        first, second = self.weights(features).chunk(2, 1)
        x = rois.flatten(2).transpose(1, 2)  # [R, 49, C]
        x = self.norm1(x @ first.unflatten(1, (channels, -1))).relu()
        x = self.norm2(x @ second.unflatten(1, (-1, channels))).relu()
        y: Tensor = self.norm3(self.project(x.flatten(1))).relu()
        return y


class DynamicStage(nn.Module):
    """Attention among the proposals, dynamic convolution, and predictions: features [B, N, C] and RoI features
    [R, C, 7, 7] -> features [B, N, C], logits [B, N, K] and deltas [B, N, 4].

    Source: arXiv:2011.12450, section 3.1.
    """

    def __init__(self, channels: int, num_classes: int, feedforward: int, hidden: int) -> None:
        super().__init__()
        self.attention = SelfAttention(channels, heads=8)
        self.attention_norm = nn.LayerNorm(channels)
        self.convolution = DynamicConv(channels, hidden)
        self.convolution_norm = nn.LayerNorm(channels)
        self.ffn = nn.Sequential(nn.Linear(channels, feedforward), nn.ReLU(), nn.Linear(feedforward, channels))
        self.ffn_norm = nn.LayerNorm(channels)
        self.cls_tower, self.box_tower = _tower(channels, 1), _tower(channels, 3)
        self.classify = nn.Linear(channels, num_classes)
        self.deltas = nn.Linear(channels, 4)

    def forward(self, features: Tensor, rois: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.attention_norm(features + self.attention(features))
        x = self.convolution_norm(x + self.convolution(x.flatten(0, 1), rois).view_as(x))
        x = self.ffn_norm(x + self.ffn(x))
        return x, self.classify(self.cls_tower(x)), self.deltas(self.box_tower(x))


def _tower(channels: int, count: int) -> nn.Sequential:
    """`count` linear layers, each with a norm and a ReLU: [..., C] -> same."""
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Linear(channels, channels, bias=False), nn.LayerNorm(channels), nn.ReLU()]
    return nn.Sequential(*layers)


class DynamicHead(nn.Module):
    """Learned boxes and features of N proposals, refined in stages.

    Source: Sparse R-CNN, arXiv:2011.12450, section 3.1.
    """

    RULES = {  # noqa: RUF012
        "mmdet": (
            Drop(r"^roi_head\.mask_head\.", "this model predicts no masks"),  # QueryInst is Sparse R-CNN with masks
            Rename(r"^rpn_head\.init_proposal_bboxes\.weight$", "dynamic.proposal_boxes"),
            Rename(r"^rpn_head\.init_proposal_features\.weight$", "dynamic.proposal_features"),
            Rename(r"^roi_head\.bbox_head\.(\d+)\.", r"dynamic.stages.\1."),
            Rename(r"\.attention\.attn\.in_proj_", ".attention.qkv."),
            Rename(r"\.attention\.attn\.out_proj\.", ".attention.project."),
            Rename(r"\.instance_interactive_conv_norm\.", ".convolution_norm."),
            Rename(r"\.instance_interactive_conv\.", ".convolution."),
            Rename(r"\.convolution\.dynamic_layer\.", ".convolution.weights."),
            Rename(r"\.convolution\.norm_in\.", ".convolution.norm1."),
            Rename(r"\.convolution\.norm_out\.", ".convolution.norm2."),
            Rename(r"\.convolution\.fc_layer\.", ".convolution.project."),
            Rename(r"\.convolution\.fc_norm\.", ".convolution.norm3."),
            Rename(r"\.ffn\.layers\.0\.0\.", ".ffn.0."),
            Rename(r"\.ffn\.layers\.1\.", ".ffn.2."),
            Rename(r"\.cls_fcs\.", ".cls_tower."),
            Rename(r"\.reg_fcs\.", ".box_tower."),
            Rename(r"\.fc_cls\.", ".classify."),
            Rename(r"\.fc_reg\.", ".deltas."),
        ),
        "detectron2": (
            Rename(r"^init_proposal_boxes\.weight$", "dynamic.proposal_boxes"),
            Rename(r"^init_proposal_features\.weight$", "dynamic.proposal_features"),
            Rename(r"^head\.head_series\.(\d+)\.", r"dynamic.stages.\1."),
            Rename(r"\.self_attn\.in_proj_", ".attention.qkv."),
            Rename(r"\.self_attn\.out_proj\.", ".attention.project."),
            Rename(r"^(dynamic\.stages\.\d+)\.norm1\.", r"\1.attention_norm."),
            Rename(r"^(dynamic\.stages\.\d+)\.norm2\.", r"\1.convolution_norm."),
            Rename(r"^(dynamic\.stages\.\d+)\.norm3\.", r"\1.ffn_norm."),
            Rename(r"\.inst_interact\.", ".convolution."),
            Rename(r"\.convolution\.dynamic_layer\.", ".convolution.weights."),
            Rename(r"\.convolution\.out_layer\.", ".convolution.project."),
            Rename(r"\.linear1\.", ".ffn.0."),
            Rename(r"\.linear2\.", ".ffn.2."),
            Rename(r"\.cls_module\.", ".cls_tower."),
            Rename(r"\.reg_module\.", ".box_tower."),
            Rename(r"\.class_logits\.", ".classify."),
            Rename(r"\.bboxes_delta\.", ".deltas."),
        ),
    }

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        num_proposals: int = 100,
        num_stages: int = 6,
        feedforward: int = 2048,
        hidden: int = 64,
        scale_clamp: float = SCALE_CLAMP,
    ) -> None:
        """`hidden` are the channels inside the dynamic convolution; `scale_clamp` limits the logarithm of the factor by
        which a stage scales the sides of a box."""
        super().__init__()
        self.scale_clamp = scale_clamp
        self.surplus = 0
        """Objects so far that found no proposal, because their images had more objects than there are proposals."""
        self.proposal_features = nn.Parameter(torch.empty(num_proposals, channels))
        self.proposal_boxes = nn.Parameter(torch.empty(num_proposals, 4))
        """Centre x, y, width and height, in shares of the image's sides."""
        stages = [DynamicStage(channels, num_classes, feedforward, hidden) for _ in range(num_stages)]
        self.stages = nn.ModuleList(stages)
        for parameter in self.stages.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        for stage in stages:
            nn.init.constant_(stage.classify.bias, -math.log((1 - 0.01) / 0.01))  # as in RetinaNet
        nn.init.normal_(self.proposal_features)
        nn.init.constant_(self.proposal_boxes[:, :2], 0.5)  # the whole image
        nn.init.ones_(self.proposal_boxes[:, 2:])

    def forward(self, pool: Callable[[Tensor], Tensor], scale: Tensor) -> list[StagePrediction]:
        """The predictions of every stage.

        Args:
            pool: boxes [B, N, 4] in input pixels -> RoI features [R, C, 7, 7].
            scale: [B, 4] width, height, width, height of every image in pixels.
        """
        boxes = box_convert(self.proposal_boxes, "cxcywh", "xyxy") * scale[:, None]
        features = self.proposal_features.expand(scale.shape[0], -1, -1)
        predictions = []
        for stage in self.stages:
            # The gradient of a box is that of its deltas, not of the positions that RoIAlign samples.
            features, logits, deltas = stage(features, pool(boxes.detach()))
            boxes = self.refined(boxes, deltas.float())
            predictions.append((logits, boxes))
            boxes = boxes.detach()
        return predictions

    def refined(self, boxes: Tensor, deltas: Tensor) -> Tensor:
        """Boxes [B, N, 4] moved and scaled by deltas [B, N, 4]."""
        limit = self.scale_clamp
        deltas = torch.cat((deltas[..., :2], deltas[..., 2:].clamp(min=-limit)), -1)  # BOX_WEIGHTS of the sides are 1
        return decode(deltas.flatten(0, 1), boxes.flatten(0, 1), BOX_WEIGHTS, limit).view_as(boxes)

    def loss(
        self, predictions: Sequence[StagePrediction], targets: Sequence[Target], scale: Tensor
    ) -> dict[str, Tensor]:
        """The terms `classification` (focal), `box` (L1, of boxes in shares of the image) and `giou` of every stage,
        `classification1` and so on, divided by the number of objects.

        An object without a proposal left, and unmatched proposals in crowd regions, count in no term.

        Args:
            predictions: as `forward` returns them.
            targets: one per image.
            scale: as for `forward`.

        Source: arXiv:2011.12450, section 3.2.
        """
        objects = []
        for target in targets:
            assert target.boxes is not None
            assert target.labels is not None
            instances, crowd_boxes = split_crowd(target)
            objects.append((target.boxes[instances], target.labels[instances], crowd_boxes))
        num_proposals = len(self.proposal_boxes)
        self._count_surplus([len(labels) for _, labels, _ in objects])
        matched = sum(min(num_proposals, len(labels)) for _, labels, _ in objects)
        normalizer = mean_over_processes(scale.new_tensor(float(matched))).clamp(min=1)
        terms = {}
        for number, (logits, boxes) in enumerate(predictions, 1):
            logits, boxes = logits.float(), boxes.float()
            classification = box = giou = logits.sum() * 0
            for i, (gt_boxes, labels, crowd_boxes) in enumerate(objects):
                cost = set_cost(logits[i], boxes[i], labels, gt_boxes, scale[i])
                query, index = match_one_to_one(cost)
                class_targets = torch.zeros_like(logits[i])
                class_targets[query, labels[index]] = 1.0
                used = ~in_crowd(boxes[i], crowd_boxes)
                used[query] = True
                focal = sigmoid_focal_loss(logits[i, used], class_targets[used], reduction="sum")
                classification = classification + focal
                box = box + ((boxes[i, query] - gt_boxes[index]) / scale[i]).abs().sum()
                giou = giou + generalized_box_iou_loss(boxes[i, query], gt_boxes[index], reduction="sum")
            for name, weight, total in zip(
                ("classification", "box", "giou"), COSTS, (classification, box, giou), strict=True
            ):
                terms[f"{name}{number}"] = weight * total / normalizer
        return terms

    def _count_surplus(self, counts: Sequence[int]) -> None:
        """Counts objects beyond the number of proposals, and warns of the first."""
        num_proposals = len(self.proposal_boxes)
        surplus = sum(max(0, count - num_proposals) for count in counts)
        if surplus and not self.surplus:
            warnings.warn(
                f"An image has {max(counts)} objects, but there are {num_proposals} proposals: objects beyond that "
                "number are not learned in a step. Raise num_proposals.",
                stacklevel=2,
            )
        self.surplus += surplus
