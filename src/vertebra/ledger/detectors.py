"""Our detectors, filled with the weights of a reference of torchvision's or MMDetection's, and what they answer.

The keys are the originals' words for the stages: the pyramid, the proposals, the heads on fixed boxes, the detections
and the terms of the loss.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from vertebra import pictures, tasks
from vertebra.heads.box import BoxHead
from vertebra.heads.regions import Samples
from vertebra.heads.rpn import by_anchor
from vertebra.ledger.fabricate import fabricate_state, fabricated_input
from vertebra.ledger.reference import Reference
from vertebra.nn.drop import DropPath
from vertebra.ops.heatmaps import locate_keypoints
from vertebra.ops.masks import place_rounded
from vertebra.structures import Frame, Preprocess, Target
from vertebra.tasks.foreign import Detector, recognised

Sums = list[tuple[list[str], Tensor]]


def outputs(reference: Reference) -> tuple[dict[str, Tensor], Sums]:
    """Our tensors by the reference's keys, and our numbers that the reference has in parts, by the keys of those."""
    spec = reference.spec
    torchvision = reference.source == "torchvision"
    model = _Model(reference)
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        found |= _stages(model, torchvision)
        found |= _on_fixed_boxes(model, torchvision)
        if any(key.startswith("detections.") for key in spec["outputs"]):
            found |= _detections(model, torchvision)
        return found, _losses(model, found, torchvision)


class _Model:
    """A reference's model as ours, and its input."""

    def __init__(self, reference: Reference) -> None:
        spec = self.spec = reference.spec
        state = fabricate_state(spec["state"], spec["gain"], spec["norm"])
        found = recognised(state)
        assert found is not None, "a reference of a detector has a detector's names"
        self.detector: Detector = found
        text = f"{spec.get('constructor', '')} {spec.get('notes', '')}"
        sides = [re.search(rf"{which}_size[= ]+(\d+)", text) for which in ("min", "max")]
        shape = spec["input"]["shape"]
        if all(sides):
            preprocess = Preprocess((int(sides[0][1]), int(sides[1][1])), resize="shortest", antialias=False)  # type: ignore[index]
        else:  # the input is a batch as it is
            preprocess = Preprocess((shape[2], shape[3]), resize="shortest")
        options = {"backbone": reference.name, **_options(text)}
        self.kind = next(
            (kind for kind, part in _PARTS.items() if f"{part}.logits.weight" in names(found)), "detection"
        )
        classes = found.classes or 1
        options |= found.options(self.kind)
        self.task = cast("Any", tasks.create(self.kind, classes=classes, preprocess=preprocess, **options))
        converted, report = self.task.convert(state, None, str(reference.path))
        self.task.fill(converted, report, partial=not found.classes)
        self.task.eval()
        self.images = fabricated_input(shape, spec["input"]["seed"])
        if match := re.search(r"image = ([\d.]+) ?\+ ?([\d.]+) ?\* ?x", spec["input"].get("note", "")):
            self.images = float(match[1]) + float(match[2]) * self.images
        size = (shape[2], shape[3])
        if all(sides):
            self.frames = [pictures.frame(size, preprocess)] * len(self.images)
            self.batch = pictures.batched([pictures.prepare(x, preprocess) for x in self.images], preprocess)
        else:
            self.frames, self.batch = [Frame(size, size)] * len(self.images), self.images
        self.sizes = [frame.scaled for frame in self.frames]
        self.extent = (self.batch.shape[2], self.batch.shape[3])
        with torch.no_grad():
            self.maps = self.task.features(self.batch)

    @property
    def dense(self) -> bool:
        """Whether there are no proposals."""
        return hasattr(self.task, "dense")

    @property
    def box_heads(self) -> list[BoxHead]:
        return [module for module in self.task.modules() if isinstance(module, BoxHead)]


_PARTS = {"instance": "mask", "keypoints": "keypoint"}


def names(detector: Detector) -> list[str]:
    """What its tensors are called here; a cascade's several mask heads as one."""
    return [re.sub(r"^mask\.\d\.", "mask.", name) for name in detector.beside]


def _options(text: str) -> dict[str, Any]:
    """The options of a constructor's call that change what is detected."""
    known = {"detections": "detections_per_img", "candidates_test": "topk_candidates"}
    found = {ours: int(m[1]) for ours, theirs in known.items() if (m := re.search(rf"{theirs}=(\d+)", text))}
    if match := re.search(r"score_thresh=([\d.]+\d)", text):
        return {**found, "score_threshold": float(match[1])}
    return found


def _stages(model: _Model, torchvision: bool) -> dict[str, Tensor]:
    """The input, the pyramid, the answers for anchors, and proposals."""
    task, maps = model.task, model.maps
    levels = ("0", "1", "2", "p6", "p7") if model.dense else ("0", "1", "2", "3", "pool")
    found = {"transformed": model.batch}
    for i, (level, x) in enumerate(zip(levels, maps, strict=False)):
        found |= {f"fpn.{level}": x, f"neck[{i}]": x}
    if model.dense:
        raw = task.dense(maps)
        flat = [by_anchor(x, n) for pair in raw for x, n in zip(pair, (task.dense.count, 4), strict=True)]
        joined = {"cls_logits": torch.cat(flat[::2], 1), "bbox_regression": torch.cat(flat[1::2], 1)}
        found |= {f"{prefix}{key}": x for key, x in joined.items() for prefix in ("head.", "")}
        for i, (logits, deltas) in enumerate(raw):
            found |= {f"head.cls_logits.{i}": flat[2 * i], f"head.bbox_regression.{i}": flat[2 * i + 1]}
            found |= {f"{part}.cls[{i}]": logits for part in ("head", "bbox_head", "retina")}
            found |= {f"{part}.reg[{i}]": deltas for part in ("head", "bbox_head", "retina")}
            found |= {f"cls_score[{i}]": logits, f"bbox_pred[{i}]": deltas}
        return found
    raw = task.rpn.raw(maps)
    for i, (logits, deltas) in enumerate(raw):
        found |= {f"rpn.objectness.{i}": logits, f"rpn.deltas.{i}": deltas}
        found |= {f"rpn.cls[{i}]": logits, f"rpn.reg[{i}]": deltas}
    if torchvision and model.detector.classes:
        first, *_ = task.rpn.propose(raw, task.rpn.anchors(raw, model.extent), model.sizes)
        found |= {"proposals.first100": first[:100], "proposals.count": torch.tensor(len(first))}
    return found


def _on_fixed_boxes(model: _Model, torchvision: bool) -> dict[str, Tensor]:
    """What the heads make of boxes that the reference names; torchvision has the background first."""
    task, spec = model.task, model.spec
    if model.dense:
        return {}
    if "fixed_boxes" in spec:
        boxes = [torch.tensor(spec["fixed_boxes"])]
    elif "fixed_rois" in spec:
        rois = torch.tensor(spec["fixed_rois"])
        boxes = [rois[rois[:, 0] == i, 1:] for i in range(len(model.batch))]
    else:
        return {}
    x = task.regions(model.maps, boxes, 7)
    found = {"fixed.box_pool": x, "fixed.bbox_feats": x}
    for i, head in enumerate(model.box_heads):
        logits, deltas = head(x)
        found |= {f"fixed.cls_score.{i}": logits, f"fixed.bbox_pred.{i}": deltas.flatten(1)}
        if i == 0:
            missing = deltas.new_full((len(deltas), 4), torch.nan)
            found |= {"fixed.box_head": head.trunk(x), "fixed.class_logits": logits.roll(1, 1)}
            found["fixed.box_regression"] = torch.cat((missing, deltas.flatten(1)), 1)
    x = task.regions(model.maps, boxes, 14)
    found |= {f"fixed.{key}": x for key in ("mask_pool", "mask_feats", "keypoint_pool")}
    if model.kind == "instance":
        for i, head in enumerate(task.heads):
            logits = head(x)
            missing = logits.new_full((len(logits), 1, *logits.shape[2:]), torch.nan)
            found |= {f"fixed.mask_preds.{i}": logits, "fixed.mask_logits": torch.cat((missing, logits), 1)}
            found["fixed.mask_head"] = head.convs(x)
    if model.kind == "keypoints":
        found |= {"fixed.keypoint_head": task.keypoint.convs(x), "fixed.keypoint_logits": task.keypoint(x)}
    return found


def _detections(model: _Model, torchvision: bool) -> dict[str, Tensor]:
    """What is found in the first picture."""
    task, frame = model.task, model.frames[0]
    raw = task(model.batch, model.sizes)[0]
    answer = task.restored(raw, frame)
    first = int(torchvision and not model.dense)  # RetinaNet's classes have the background among them already
    found = {"boxes": answer.boxes, "bboxes": answer.boxes, "scores": answer.scores, "labels": answer.labels + first}
    if raw.masks is not None:
        found["masks"] = answer.masks.dense().float()
        if torchvision:  # probabilities
            whole = torch.zeros(len(answer.boxes), 1, *frame.picture)
            for place, box, probability in zip(whole, answer.boxes.tolist(), raw.masks, strict=True):
                (x, y), crop = place_rounded(probability, box, frame.picture)
                place[0, y : y + crop.shape[0], x : x + crop.shape[1]] = crop
            found["masks"] = whole
    if raw.heatmaps is not None:
        scores = locate_keypoints(raw.heatmaps, raw.boxes)[..., 2]
        found["keypoints"] = torch.cat((answer.keypoints[..., :2], torch.ones_like(scores)[..., None]), 2)
        found["keypoints_scores"] = scores
    return {f"detections.{key}": tensor.float() for key, tensor in found.items()}


_TERMS = {  # ours, torchvision's, MMDetection's
    "objectness": ("loss_objectness", "loss_rpn_cls"),
    "rpn_box": ("loss_rpn_box_reg", "loss_rpn_bbox"),
    "classification": ("loss_classifier", "loss_cls"),
    "box": ("loss_box_reg", "loss_bbox"),
    "mask": ("loss_mask", "loss_mask"),
    "keypoint": ("loss_keypoint", "loss_keypoint"),
}
_DENSE_TERMS = {"classification": ("classification", "loss_cls"), "box": ("bbox_regression", "loss_bbox")}


def _losses(model: _Model, found: dict[str, Tensor], torchvision: bool) -> Sums:
    """Adds the terms of the loss to `found`; those that the reference has for each level or stage are given back."""
    keys = [key for key in model.spec["outputs"] if key.startswith("loss.")]
    pointless = model.kind == "keypoints" and not isinstance(model.spec.get("target", {}).get("keypoints"), list)
    if not keys or "target" not in model.spec or pointless:
        return []
    sums: Sums = []
    for tag in sorted({m[1] or "" for key in keys if (m := re.match(r"loss\.((?:first|seed\d+)\.)?", key))}):
        terms, accuracies = _terms(model, tag, torchvision)
        own = [
            key for key in keys if key.startswith(f"loss.{tag}") and (tag or not re.match(r"loss\.(first|seed)", key))
        ]
        for name, value in terms.items():
            stage = re.fullmatch(r"(\w+?)(\d)", name)
            plain = stage[1] if stage else name
            theirs = (_DENSE_TERMS if model.dense else _TERMS)[plain][0 if torchvision else 1]
            at = f"s{int(stage[2]) - 1}." if stage else r"(?:s\d\.)?"
            parts = [key for key in own if re.fullmatch(rf"loss\.{tag}{at}{theirs}(\[\d\])?", key)]
            if len(parts) == 1:
                found[parts[0]] = value
            elif parts:
                sums.append((parts, value))
        for i, value in enumerate(accuracies):
            found |= {f"loss.{tag}acc": value, f"loss.{tag}s{i}.acc": value}
    return sums


def _terms(model: _Model, tag: str, torchvision: bool) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Our loss, norms and what drops at random being as in use, and each box head's share of right answers in percent.

    Regions are drawn in their order, or with `seedN.` by torch's random numbers from that seed on.
    """
    task = model.task.train()
    for module in task.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.Dropout | DropPath):
            module.eval()
    accuracies: list[Tensor] = []
    with _drawing(tag, len(model.batch) if torchvision else 0), _answers(model.box_heads, accuracies):
        terms = task.loss(model.batch, [_target(model, torchvision)] * len(model.batch))
    task.eval()
    return terms, accuracies


@contextmanager
def _drawing(tag: str, pictures: int) -> Iterator[None]:
    kept = torch.randperm
    if tag.startswith("seed"):
        torch.manual_seed(int(tag[4:-1]))
        for _ in range(pictures):  # torchvision chooses each picture's size, also if there is one to choose from
            torch.empty(1).uniform_(0, 1)
    else:
        torch.randperm = lambda count, device=None: torch.arange(count, device=device)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.randperm = kept


@contextmanager
def _answers(heads: Sequence[BoxHead], accuracies: list[Tensor]) -> Iterator[None]:
    """Notes how many of the regions drawn the heads tell rightly."""

    def noting(head: BoxHead) -> Callable[[Tensor, Tensor, Sequence[Samples]], Mapping[str, Tensor]]:
        def loss(logits: Tensor, deltas: Tensor, samples: Sequence[Samples]) -> Mapping[str, Tensor]:
            labels = torch.cat([each.labels for each in samples])
            accuracies.append(100 * (logits.argmax(1) == labels).float().mean())
            return BoxHead.loss(head, logits, deltas, samples)

        return loss

    for head in heads:
        head.loss = noting(head)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        for head in heads:
            del head.loss


def _target(model: _Model, torchvision: bool) -> Target:
    """What the reference says is in its picture, in pixels of the input."""
    given, frame = model.spec["target"], model.frames[0]
    boxes = torch.tensor(given.get("boxes", given.get("bboxes")))
    (height, width), (high, wide) = frame.picture, frame.scaled
    factor = torch.tensor([wide / width, high / height])
    labels = torch.tensor(given["labels"]) - int(torchvision and not model.dense)
    target = Target(boxes=boxes * factor.repeat(2), labels=labels, size=frame.scaled)
    if model.kind == "instance":
        target.masks = torch.zeros(len(boxes), *model.extent, dtype=torch.bool)
        masks = _ellipses(boxes, frame.picture)[:, None].float()
        target.masks[:, :high, :wide] = (
            interpolate(masks, scale_factor=high / height, recompute_scale_factor=True)[:, 0] > 0
        )
    if isinstance(points := given.get("keypoints"), list):
        keypoints = torch.tensor(points, dtype=torch.float32)
        target.keypoints = torch.cat((keypoints[..., :2] * factor, keypoints[..., 2:]), 2)
    return target


def _ellipses(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, H, W] bool: the ellipse that fills each box."""
    y, x = torch.meshgrid(torch.arange(float(size[0])), torch.arange(float(size[1])), indexing="ij")
    x1, y1, x2, y2 = boxes[..., None, None].unbind(1)
    return ((x - (x1 + x2) / 2) / ((x2 - x1) / 2)) ** 2 + ((y - (y1 + y2) / 2) / ((y2 - y1) / 2)) ** 2 <= 1
