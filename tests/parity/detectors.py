"""Our detectors, filled with the weights of a reference of torchvision's or MMDetection's, and their outputs.

The keys are the originals' names of the stages: the pyramid, the proposals, the heads on fixed boxes, the detections,
and the terms of the loss.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from vertebra import tasks
from vertebra.heads.anchors import flatten_anchors
from vertebra.heads.box import BoxHead
from vertebra.heads.roi import Samples
from vertebra.images import frame_of, pad_batch, prepare
from vertebra.ledger.fabricate import fabricate_state, fabricated_input
from vertebra.ledger.reference import Comparison, Reference, compare_outputs
from vertebra.nn.drop import DropPath
from vertebra.ops.heatmaps import heatmaps_to_keypoints
from vertebra.ops.masks import resample_rounded
from vertebra.structures import Frame, Masks, Preprocess, Target
from vertebra.weights import Checkpoint

Sums = list[tuple[list[str], Tensor]]


@dataclass(frozen=True)
class Original:
    """What a reference is of, and how it was made."""

    task: str
    backbone: str
    source: str
    sides: tuple[int, int] | None = None
    """(length of the shorter side, maximum of the longer one) that images are resized to; None if the input is a batch
    as it is."""
    scale: tuple[float, float] = (0.0, 1.0)
    """Image = scale[0] + scale[1] * fabricated_input."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options in which it differs from the library's defaults."""


_COCO_V1 = {"sides": (320, 420), "scale": (0.5, 0.22), "options": {"max_detections": 50, "score_threshold": 0.05}}
_SMALL = {"sides": (96, 128), "scale": (0.5, 0.22)}
FEWER = {  # so that the heads have less to do
    "rpn_post_nms_top_n_test": 100,
    "rpn_post_nms_top_n_train": 200,
    "roi_batch_size": 64,
    "max_detections": 15,
}
ORIGINALS = {
    "tv_fasterrcnn_resnet50_fpn": Original("detection", "resnet50", "torchvision", **_COCO_V1),
    "tv_maskrcnn_resnet50_fpn": Original("instance", "resnet50", "torchvision", **_COCO_V1),
    "tv_frozen_resnet50_fpn_eps": Original("detection", "resnet50", "torchvision"),
    "mmdet_mask_rcnn_swin_t": Original("instance", "swin_tiny", "mmdet"),
    # Made by test_references.py:
    "tv_retinanet_resnet50_fpn": Original(
        "detection", "resnet50", "torchvision", **_SMALL, options={"max_detections": 15}
    ),
    "tv_keypointrcnn_resnet50_fpn": Original("keypoints", "resnet50", "torchvision", **_SMALL, options=FEWER),
}


def read(path: Path) -> Reference:
    spec = json.loads(path.read_text())
    original = ORIGINALS[spec["id"]]
    return Reference(path, original.backbone, original.source, spec)


def compare(
    reference: Reference, outputs: Mapping[str, Tensor], sums: Sums, *, rtol: float = 1e-4, atol: float = 1e-4
) -> Comparison:
    """Compares every output; sums of ours that the reference has in parts are compared with the sums of the parts."""
    rows = reference.spec["outputs"]
    arrays = np.load(reference.path.with_suffix(".npz"), allow_pickle=False)
    compared, problems, remarks = [], [], []
    for keys, total in sums:
        expected = sum(float(arrays[rows[key]["array"]].sum()) for key in keys)
        compared += keys
        remarks.append(f"{keys[0]} to {keys[-1]}: their sum was compared")
        if abs(float(total) - expected) > max(rows[key].get("rtol", rtol) for key in keys) * abs(expected) + 1e-7:
            problems.append(f"{keys[0]} to {keys[-1]}: their sum is {float(total):.6g}, expected {expected:.6g}")
    remaining = {**reference.spec, "outputs": {key: row for key, row in rows.items() if key not in compared}}
    result = compare_outputs(replace(reference, spec=remaining), outputs, rtol=rtol, atol=atol)
    return Comparison(
        reference,
        result.difference,
        compared + result.compared,
        problems + result.problems,
        remarks + result.remarks,
    )


def outputs_of(reference: Reference) -> tuple[dict[str, Tensor], Sums]:
    """Our tensors by the reference's keys, and our scalars that the reference has in parts, by the parts' keys."""
    model = Model(reference)
    with torch.no_grad():
        outputs = stages(model)
        outputs |= on_fixed_boxes(model)
        if any(key.startswith("detections.") for key in reference.spec["outputs"]):
            outputs |= detections(model)
        return outputs, losses(model, outputs)


@functools.lru_cache(maxsize=1)
def fabricated(arguments: str) -> dict[str, Tensor]:
    """The state dict that `fabricate_state` makes of its arguments in JSON; the last one is kept."""
    return fabricate_state(*json.loads(arguments))


class Model:
    """A reference's model as ours, and its input."""

    def __init__(self, reference: Reference) -> None:
        spec = self.spec = reference.spec
        original = ORIGINALS[spec["id"]]
        self.torchvision = original.source == "torchvision"
        shape = spec["input"]["shape"]
        size = (shape[2], shape[3])
        preprocess = Preprocess(original.sides or size, resize="shortest", antialias=False)
        state = fabricated(json.dumps([spec["state"], spec["gain"], spec["norm"]]))
        self.task: Any = tasks.create(
            original.task,
            backbone=original.backbone,
            weights=Checkpoint(reference.path, state),
            preprocess=preprocess,
            **original.options,
        ).eval()
        unused = [name for name in self.task.report.left_out if not name.endswith("num_batches_tracked")]
        assert not unused, unused
        self.whole = not any(name.startswith(("rpn.", "dense.")) for name in self.task.report.new)
        images = original.scale[0] + original.scale[1] * fabricated_input(shape, spec["input"]["seed"])
        self.frames, self.batch = [Frame(size, size)] * len(images), images
        if original.sides:
            self.frames = [frame_of(size, preprocess)] * len(images)
            self.batch = pad_batch([prepare(image, preprocess) for image in images], preprocess)
        self.sizes = [frame.resized for frame in self.frames]
        self.input_size = (self.batch.shape[2], self.batch.shape[3])
        with torch.no_grad():
            self.maps = self.task.features(self.batch)
        self.task.features = lambda images: self.maps  # once is enough: norms are in eval mode throughout

    @property
    def dense(self) -> bool:
        """Whether there are no proposals."""
        return hasattr(self.task, "dense")

    @property
    def box_heads(self) -> list[BoxHead]:
        return [module for module in self.task.modules() if isinstance(module, BoxHead)]


def stages(model: Model) -> dict[str, Tensor]:
    """The input, the pyramid, the raw predictions of the anchors, and proposals."""
    task, maps = model.task, model.maps
    levels = ("0", "1", "2", "p6", "p7") if model.dense else ("0", "1", "2", "3", "pool")
    outputs = {"transformed": model.batch}
    for i, (level, x) in enumerate(zip(levels, maps, strict=True)):
        outputs |= {f"fpn.{level}": x, f"neck[{i}]": x}
    if model.dense:
        raw = task.dense(maps)
        widths = (task.dense.num_classes, 4)
        flat = [flatten_anchors(x, width) for pair in raw for x, width in zip(pair, widths, strict=True)]
        joined = {"cls_logits": torch.cat(flat[::2], 1), "bbox_regression": torch.cat(flat[1::2], 1)}
        return outputs | {f"head.{key}": x for key, x in joined.items()}
    raw = task.rpn.raw(maps)
    for i, (logits, deltas) in enumerate(raw):
        outputs |= {f"rpn.objectness.{i}": logits, f"rpn.deltas.{i}": deltas}
        outputs |= {f"rpn.cls[{i}]": logits, f"rpn.reg[{i}]": deltas}
    if model.torchvision and model.whole:
        proposals = task.rpn.propose(raw, task.rpn.grids(raw, model.input_size), model.sizes)[0]
        outputs |= {"proposals.first100": proposals[:100], "proposals.count": torch.tensor(len(proposals))}
    return outputs


def on_fixed_boxes(model: Model) -> dict[str, Tensor]:
    """What the heads predict for the reference's fixed boxes; torchvision has the background first."""
    task, spec = model.task, model.spec
    if model.dense or not {"fixed_boxes", "fixed_rois"} & spec.keys():
        return {}
    if "fixed_boxes" in spec:
        boxes = [torch.tensor(spec["fixed_boxes"])]
    else:
        rois = torch.tensor(spec["fixed_rois"])
        boxes = [rois[rois[:, 0] == i, 1:] for i in range(len(model.batch))]
    x = task.roi_features(model.maps, boxes, 7)
    outputs = {"fixed.box_pool": x, "fixed.bbox_feats": x}
    for i, head in enumerate(model.box_heads):
        logits, deltas = head(x)
        outputs |= {f"fixed.cls_score.{i}": logits, f"fixed.bbox_pred.{i}": deltas.flatten(1)}
        if i == 0:
            background = deltas.new_full((len(deltas), 4), torch.nan)
            outputs |= {"fixed.box_head": head.trunk(x), "fixed.class_logits": logits.roll(1, 1)}
            outputs["fixed.box_regression"] = torch.cat((background, deltas.flatten(1)), 1)
    x = task.roi_features(model.maps, boxes, 14)
    outputs |= {f"fixed.{key}": x for key in ("mask_pool", "mask_feats", "keypoint_pool")}
    for i, head in enumerate(getattr(task, "mask_heads", ())):
        logits = head(x)
        background = logits.new_full((len(logits), 1, *logits.shape[2:]), torch.nan)
        outputs |= {f"fixed.mask_preds.{i}": logits, "fixed.mask_logits": torch.cat((background, logits), 1)}
        outputs["fixed.mask_head"] = head.convs(x)
    if hasattr(task, "keypoint"):
        outputs |= {"fixed.keypoint_head": task.keypoint.convs(x), "fixed.keypoint_logits": task.keypoint(x)}
    return outputs


def detections(model: Model) -> dict[str, Tensor]:
    """The detections in the first image."""
    task, frame = model.task, model.frames[0]
    raw = task(model.batch, model.sizes)
    prediction = task.decode(raw, model.frames)[0]
    first = int(model.torchvision and not model.dense)  # RetinaNet's classes include the background
    outputs = {"boxes": prediction.boxes, "bboxes": prediction.boxes, "scores": prediction.scores}
    outputs["labels"] = prediction.labels + first
    if prediction.masks is not None:
        outputs["masks"] = prediction.masks.dense().float()
        if model.torchvision:  # which returns probabilities
            whole = torch.zeros(len(prediction.boxes), 1, *frame.original)
            probabilities = raw[4][0, : len(whole)]
            for canvas, box, probability in zip(whole, prediction.boxes.tolist(), probabilities, strict=True):
                (x, y), crop = resample_rounded(probability, box, frame.original)
                canvas[0, y : y + crop.shape[0], x : x + crop.shape[1]] = crop
            outputs["masks"] = whole
    if prediction.keypoints is not None:
        scores = heatmaps_to_keypoints(raw[4][0], raw[0][0])[: len(prediction.boxes), :, 2]
        outputs["keypoints"] = torch.cat((prediction.keypoints[..., :2], torch.ones_like(scores)[..., None]), 2)
        outputs["keypoints_scores"] = scores
    return {f"detections.{key}": tensor.float() for key, tensor in outputs.items()}


_TERMS = {  # ours, torchvision's, MMDetection's
    "objectness": ("loss_objectness", "loss_rpn_cls"),
    "rpn_box": ("loss_rpn_box_reg", "loss_rpn_bbox"),
    "classification": ("loss_classifier", "loss_cls"),
    "box": ("loss_box_reg", "loss_bbox"),
    "mask": ("loss_mask", "loss_mask"),
    "keypoint": ("loss_keypoint", "loss_keypoint"),
}
_DENSE_TERMS = {"classification": ("classification", "loss_cls"), "box": ("bbox_regression", "loss_bbox")}


def losses(model: Model, outputs: dict[str, Tensor]) -> Sums:
    """Adds the terms of the loss to `outputs`; those that the reference has per level are returned."""
    keys = [key for key in model.spec["outputs"] if key.startswith("loss.")]
    sums: Sums = []
    for tag in sorted({m[1] or "" for key in keys if (m := re.match(r"loss\.((?:first|seed\d+)\.)?", key))}):
        terms, accuracies = loss_terms(model, tag)
        tagged = [
            key for key in keys if key.startswith(f"loss.{tag}") and (tag or not re.match(r"loss\.(first|seed)", key))
        ]
        for name, value in terms.items():
            theirs = (_DENSE_TERMS if model.dense else _TERMS)[name][0 if model.torchvision else 1]
            parts = [key for key in tagged if re.fullmatch(rf"loss\.{tag}{theirs}(\[\d\])?", key)]
            if len(parts) == 1:
                outputs[parts[0]] = value
            elif parts:
                sums.append((parts, value))
        for value in accuracies:
            outputs[f"loss.{tag}acc"] = value
    return sums


def loss_terms(model: Model, tag: str) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Our loss with norms and random drops in eval mode, and the accuracy of each box head in percent.

    RoIs are sampled in their order, or with tag `seedN.` by torch's random numbers from that seed on.
    """
    task = model.task.train()
    for module in task.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.Dropout | DropPath):
            module.eval()
    accuracies: list[Tensor] = []
    with sampling(tag, len(model.batch) if model.torchvision else 0), recording(model.box_heads, accuracies):
        terms = task.loss(model.batch, [target(model)] * len(model.batch))
    task.eval()
    return terms, accuracies


@contextmanager
def sampling(tag: str, num_images: int) -> Iterator[None]:
    randperm = torch.randperm
    if tag.startswith("seed"):
        torch.manual_seed(int(tag[4:-1]))
        for _ in range(num_images):  # torchvision draws each image's size, even from a single one
            torch.empty(1).uniform_(0, 1)
    else:
        torch.randperm = lambda count, device=None: torch.arange(count, device=device)
    try:
        yield
    finally:
        torch.randperm = randperm


@contextmanager
def recording(heads: Sequence[BoxHead], accuracies: list[Tensor]) -> Iterator[None]:
    """Appends the percentage of sampled RoIs that each head classifies correctly."""

    def loss_of(head: BoxHead) -> Callable[[Tensor, Tensor, Sequence[Samples]], Mapping[str, Tensor]]:
        def loss(logits: Tensor, deltas: Tensor, samples: Sequence[Samples]) -> Mapping[str, Tensor]:
            labels = torch.cat([s.labels for s in samples])
            accuracies.append(100 * (logits.argmax(1) == labels).float().mean())
            return BoxHead.loss(head, logits, deltas, samples)

        return loss

    for head in heads:
        head.loss = loss_of(head)
    try:
        yield
    finally:
        for head in heads:
            del head.loss


def target(model: Model) -> Target:
    """The ground truth of the reference's image, in pixels of the input."""
    spec, frame = model.spec["target"], model.frames[0]
    boxes = torch.tensor(spec.get("boxes", spec.get("bboxes")))
    (height, width), (resized_height, resized_width) = frame.original, frame.resized
    factor = torch.tensor([resized_width / width, resized_height / height])
    labels = torch.tensor(spec["labels"]) - int(model.torchvision and not model.dense)
    result = Target(boxes=boxes * factor.repeat(2), labels=labels, size=frame.resized)
    if hasattr(model.task, "mask_heads"):
        masks = ellipses(boxes, frame.original)[:, None].float()
        resized = interpolate(masks, scale_factor=resized_height / height, recompute_scale_factor=True)[:, 0]
        result.masks = Masks.from_dense(resized > 0)
    if "keypoints" in spec:
        keypoints = torch.tensor(spec["keypoints"], dtype=torch.float32)
        result.keypoints = torch.cat((keypoints[..., :2] * factor, keypoints[..., 2:]), 2)
    return result


def ellipses(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, H, W] bool: the ellipse inscribed in each box."""
    y, x = torch.meshgrid(torch.arange(float(size[0])), torch.arange(float(size[1])), indexing="ij")
    x1, y1, x2, y2 = boxes[..., None, None].unbind(1)
    return ((x - (x1 + x2) / 2) / ((x2 - x1) / 2)) ** 2 + ((y - (y1 + y2) / 2) / ((y2 - y1) / 2)) ** 2 <= 1
