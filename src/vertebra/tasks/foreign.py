"""Detectors of torchvision, Detectron2 and MMDetection: whose a file is, and what must be built to hold its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from vertebra import weights
from vertebra.errors import VertebraError
from vertebra.heads.box import BoxHead
from vertebra.heads.dense import DenseHead
from vertebra.heads.keypoint import KeypointHead
from vertebra.heads.mask import MaskHead
from vertebra.heads.rpn import RPN
from vertebra.necks import FPN, HRFPN
from vertebra.structures import COCO_PERSON, Points, Preprocess
from vertebra.weights import Drop, Rename

PREFIXES = {
    "torchvision": ("backbone.body.",),
    "detectron2": ("backbone.bottom_up.", "backbone."),
    "mmdet": ("backbone.",),
}
"""What stands before the names of the backbone's tensors in a source's detectors."""
_MARKS = {
    "torchvision": ("backbone.body.",),
    "detectron2": ("backbone.bottom_up.", "proposal_generator.", "roi_heads.res5."),
    "mmdet": ("rpn_head.", "roi_head.", "bbox_head."),
}
"""Names that only a source's detectors have."""
_STAGES = {
    "detectron2": Rename(r"^roi_heads\.res5\.", "backbone.res5."),
    "mmdet": Rename(r"^roi_head\.shared_head\.", "backbone."),
}
"""Where the C4 forms keep the backbone's last stage, and where it stands otherwise."""
_DERIVED = {
    "detectron2": (
        Drop(r"anchor_generator\.cell_anchors", "computed from the sizes"),
        Drop(r"^pixel_(mean|std)$", "pictures are prepared as `preprocess` says"),
    ),
}


@dataclass(frozen=True)
class Detector:
    """A file's tensors."""

    source: str
    """Whose it is: a key of PREFIXES, or a table of it."""
    inside: dict[str, Tensor]
    """The backbone's, under the source's own names."""
    beside: dict[str, Tensor]
    """All others, under ours."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Names that are of no use, and why."""
    c4: bool = False
    """Whether regions are read by the backbone's last stage."""

    @property
    def classes(self) -> int | None:
        """How many classes it tells apart."""
        if "dense.classify.bias" in self.beside:
            anchors = len(self.beside["dense.deltas.bias"]) // 4
            return len(self.beside["dense.classify.bias"]) // anchors
        head = self._first("box.classify.bias", "box.0.classify.bias")
        return None if head is None else len(head) - 1

    def prepares(self, usual: Preprocess) -> Preprocess:
        """How its source resizes pictures: Detectron2 does so with Pillow, which smoothes, MMDetection with OpenCV."""
        rounding = "down" if self.source == "torchvision" else "nearest"
        return replace(usual, antialias=self.source.startswith("detectron2"), rounding=rounding)

    def options(self, task: str) -> dict[str, Any]:
        """The options of `task` with which a model has the tensors that are in the file.

        Raises:
            VertebraError: if no method of the task is like it.
        """
        found: dict[str, Any] = {"method": self._method(task)}
        if self.c4:
            found["channels"] = self._width("mask.upsample.bias")
        elif self._has("neck.reduction."):
            found |= {"neck": "hrfpn", "channels": self._width("neck.reduction.bias")}
        else:
            found |= {"channels": self._width("neck.output.0.conv.weight"), "neck_norm": self._norm("neck.")}
        found["head_norm"] = self._norm("box.", "mask.", "dense.")
        if self._has("dense."):
            start = self._first("coarser.convs.0.weight")
            if start is not None:
                found["extra_levels"] = "pyramid" if start.shape[1] == start.shape[0] else "backbone"
        else:
            found["rpn_convs"] = self._count(r"rpn\.convs\.\d+\.conv\.weight")
            if not self.c4:
                found["box_head"] = "4conv1fc" if self._has("box.trunk.convs.", "box.0.trunk.convs.") else "2fc"
                found["box_width"] = self._width("box.trunk.linears.0.bias", "box.0.trunk.linears.0.bias")
        if task == "instance":
            if self._has("box.0."):
                found["mask_stages"] = 3 if self._has("mask.0.") else 1
            if self._width("mask.logits.bias", "mask.0.logits.bias") == 1 and self.classes != 1:
                found["masks"] = "agnostic"
        if task == "keypoints":
            found["keypoint_convs"] = self._count(r"keypoint\.convs\.\d+\.conv\.weight") or None
            found["keypoint_width"] = self._width("keypoint.convs.0.conv.bias")
            count = self._width("keypoint.logits.bias")
            if count not in (None, len(COCO_PERSON.names)):
                found["points"] = Points(tuple(str(i) for i in range(count)))
        if self._grouped:
            found["norm"] = "group"
        return {key: value for key, value in found.items() if value is not None}

    @property
    def _grouped(self) -> bool:
        """Whether the backbone has group norms."""
        if self.source.startswith("mmdet"):
            return any(re.search(r"(^|\.)gn\d\.", name) for name in self.inside)
        return self.source.startswith("detectron2") and _kind([f".{name}" for name in self.inside]) == "group"

    def _method(self, task: str) -> str:
        cascade = self._has("box.0.")
        if self._has("dense."):
            if task != "detection":
                raise VertebraError(f"this is of a RetinaNet, which finds boxes alone: it fits detection, not {task}.")
            return "retinanet"
        stem = {"detection": "faster_rcnn", "instance": "mask_rcnn", "keypoints": "keypoint_rcnn"}[task]
        if cascade and task != "keypoints":
            return "cascade_rcnn" if task == "detection" else "cascade_mask_rcnn"
        return f"{stem}_c4" if self.c4 and task != "keypoints" else stem

    def _has(self, *prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in self.beside)

    def _count(self, pattern: str) -> int:
        return sum(re.fullmatch(pattern, name) is not None for name in self.beside)

    def _first(self, *names: str) -> Tensor | None:
        return next((self.beside[name] for name in names if name in self.beside), None)

    def _width(self, *names: str) -> int | None:
        tensor = self._first(*names)
        return None if tensor is None else len(tensor)

    def _norm(self, *prefixes: str) -> str:
        return _kind([name for name in self.beside if name.startswith(prefixes)])


def recognised(state: Mapping[str, Tensor], source: str | None = None) -> Detector | None:
    """The detector in a file, or None if its tensors are those of no detector.

    Raises:
        VertebraError: if it is of another source than `source`.
    """
    owner = next((each for each, marks in _MARKS.items() if any(name.startswith(marks) for name in state)), None)
    if owner is None:
        return None
    if source is not None and source.partition("/")[0] != owner:
        raise VertebraError(f"its names are those of {owner}, not of {source}; leave source out.")
    names, c4 = {name: name for name in state}, False
    if rule := _STAGES.get(owner):
        names = {name: re.sub(rule.pattern, rule.to, name) for name in state}
        c4 = any(old != new for old, new in names.items())
    prefix = next(p for p in PREFIXES[owner] if any(name.startswith(p) for name in names.values()))
    inside = {new.removeprefix(prefix): state[old] for old, new in names.items() if new.startswith(prefix)}
    outside = {old: state[old] for old, new in names.items() if not new.startswith(prefix)}
    neck = HRFPN if any(name.startswith("neck.reduction_conv.") for name in outside) else FPN
    rules = [rule for part in (neck, RPN, BoxHead, MaskHead, KeypointHead, DenseHead) for rule in part.RULES[owner]]
    beside, left_out = weights.convert(outside, [*_DERIVED.get(owner, ()), *rules])
    if owner == "detectron2":
        mean = state.get("pixel_mean")
        if source is None and mean is not None and float(mean.flatten()[0]) > float(mean.flatten()[-1]):
            source = "detectron2/rgb"  # the red mean is the greatest
    return Detector(source or owner, inside, _levels(beside), left_out, c4)


def _levels(beside: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the pyramid's levels counted from its finest; what lies beyond its lateral levels is made by convolution."""
    numbers = [int(m[1]) for name in beside if (m := re.match(r"neck\.lateral\.(\d)\.conv\.weight", name))]
    if not numbers:
        return beside

    def place(match: re.Match[str]) -> str:
        level = int(match[2]) - min(numbers)
        if level < len(numbers):
            return f"neck.{match[1]}.{level}.{match[3]}."
        return f"coarser.convs.{level - len(numbers)}."

    return {re.sub(r"^neck\.(lateral|output)\.(\d)\.(conv|norm)\.", place, name): t for name, t in beside.items()}


def _kind(names: Sequence[str]) -> str:
    """Which kind of norm there is among tensors of these names."""
    if not any(name.endswith(".norm.weight") for name in names):
        return "none"
    return "batch" if any(name.endswith(".norm.running_mean") for name in names) else "group"
