"""COCO's summary numbers, computed by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as coco_mask

from vertebra.metrics.coco.instances import ImageInstances, Instances
from vertebra.structures import COCO_PERSON, KeypointSchema

IOU_TYPES = {"box": "bbox", "mask": "segm", "boundary": "boundary", "keypoints": "keypoints"}
"""What the similarity of instances is computed from, and its name in faster-coco-eval."""
NUMBERS = (
    ("ap", "AP"),  # mean over IoU 0.5, 0.55, ..., 0.95
    ("ap50", "AP50"),
    ("ap75", "AP75"),
    ("ap_small", "AP small"),
    ("ap_medium", "AP medium"),
    ("ap_large", "AP large"),
    ("ar1", "AR1"),
    ("ar10", "AR10"),
    ("ar{max_detections}", "AR{max_detections}"),
    ("ar_small", "AR small"),
    ("ar_medium", "AR medium"),
    ("ar_large", "AR large"),
)
"""COCO's twelve numbers in its own order: key and display name."""
KEYPOINT_NUMBERS = (
    ("ap", "AP"),
    ("ap50", "AP50"),
    ("ap75", "AP75"),
    ("ap_medium", "AP medium"),
    ("ap_large", "AP large"),
    ("ar", "AR"),
    ("ar50", "AR50"),
    ("ar75", "AR75"),
    ("ar_medium", "AR medium"),
    ("ar_large", "AR large"),
)
"""COCO's ten for keypoints, in its own order."""


def prefix(iou_type: str) -> str:
    """Begins the keys and display names of a type's numbers."""
    return iou_type.removesuffix("s")


def number_names(iou_type: str, max_detections: int) -> list[tuple[str, str]]:
    """Key and display name of each of COCO's numbers of a type, such as ("box_ap", "box AP"), in COCO's order."""
    table = KEYPOINT_NUMBERS if iou_type == "keypoints" else NUMBERS
    return [
        (f"{prefix(iou_type)}_{key}", f"{prefix(iou_type)} {name}")
        for key, name in (
            (key.format(max_detections=max_detections), name.format(max_detections=max_detections))
            for key, name in table
        )
    ]


def keypoint_sigmas(keypoints: KeypointSchema | None, sigmas: Sequence[float] = ()) -> np.ndarray:
    """[K]: `sigmas`, else those of the schema."""
    return np.asarray(sigmas or (keypoints or COCO_PERSON).deviations)


def evaluate(
    images: Sequence[ImageInstances], iou_type: str, num_classes: int, *, sigmas: np.ndarray, max_detections: int
) -> COCOeval_faster:
    """faster-coco-eval's results by one IoU type.

    Args:
        images: in the order that decides between equal scores.
        sigmas: [K], of the keypoints.
        max_detections: top-scoring detections of each image and class that are counted; for keypoints always 20.
    """
    image_rows = []
    for number, image in enumerate(images, 1):  # images and classes are numbered from 1
        height, width = image.size
        image_rows.append({"id": number, "height": height, "width": width})
    categories = [{"id": label + 1, "name": str(label)} for label in range(num_classes)]
    objects = [row for i, image in enumerate(images, 1) for row in _records(iou_type, image.objects, i)]
    detections = [
        row for i, image in enumerate(images, 1) for row in _records(iou_type, image.detections, i, scored=True)
    ]
    datasets = []
    for rows in (objects, detections):
        for number, row in enumerate(rows, 1):
            row["id"] = number
        datasets.append(COCO({"images": image_rows, "annotations": rows, "categories": categories}))
    evaluator = COCOeval_faster(
        *datasets, IOU_TYPES[iou_type], kpt_oks_sigmas=list(sigmas) if iou_type == "keypoints" else None
    )
    evaluator.params.imgIds = [row["id"] for row in image_rows]
    evaluator.params.catIds = [category["id"] for category in categories]
    if iou_type != "keypoints":
        evaluator.params.maxDets = [1, min(10, max_detections), max_detections]
    evaluator.run()
    return evaluator


def _records(iou_type: str, instances: Instances, image: int, *, scored: bool = False) -> list[dict[str, Any]]:
    """COCO's records of one image's objects or, `scored`, detections."""
    rows: list[dict[str, Any]] = []
    for i, label in enumerate(instances.labels.tolist()):
        row: dict[str, Any] = {"image_id": image, "category_id": label + 1, "iscrowd": int(instances.crowd[i])}
        box = None if instances.boxes is None else instances.boxes[i].tolist()
        if iou_type == "box":
            assert box is not None
            row |= {"bbox": box, "area": box[2] * box[3]}
        elif iou_type == "keypoints":
            assert instances.keypoints is not None
            keypoints = instances.keypoints[i]  # [K, 3]
            span = keypoints[:, :2].max(0) - keypoints[:, :2].min(0)
            row |= {"keypoints": keypoints.ravel().tolist(), "area": float(span[0] * span[1])}
            if not scored:
                row |= {"bbox": box, "num_keypoints": int((keypoints[:, 2] > 0).sum())}
        else:
            assert instances.masks is not None
            row |= {"segmentation": instances.masks[i], "area": float(coco_mask.area(instances.masks[i]))}
        row |= {"score": float(instances.scores[i])} if scored else {"area": float(instances.areas[i])}
        rows.append(row)
    return rows


def mean_precision(precision: np.ndarray) -> float | None:
    """Mean of the defined values; COCO marks the others by -1."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else None


def precision_curve(precision: np.ndarray) -> dict[str, Any]:
    """Precision [recall, class] as `mean` over the classes and per class, rounded because reports and checkpoints store
    it."""
    defined = [column for column in precision.T if column[0] > -1]
    return {
        "mean": np.mean(defined, 0).round(4).tolist() if defined else None,
        "classes": [column.round(4).tolist() if column[0] > -1 else None for column in precision.T],
    }
