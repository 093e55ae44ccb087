"""Published detectors of other libraries, for the WEIGHTS of the methods that read them.

A row is the publisher's own name of the model and of its file, our backbone, and the published box AP and, where there
is one, mask or keypoint AP in percent on COCO val2017.
"""

from __future__ import annotations

import re
from typing import Any

from vertebra.weights import Weights
from vertebra.weights.torchvision import cards, coco_classes

Row = tuple[Any, ...]

_DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2"
_MMDET = "https://download.openmmlab.com/mmdetection/v2.0"
_SWIN = "https://github.com/SwinTransformer/storage/releases/download"


def torchvision(*models: str) -> dict[str, Weights]:
    """All checkpoints of models of torchvision with a ResNet, such as `fasterrcnn_resnet50_fpn`."""
    rows: dict[str, Weights] = {}
    for model in models:
        rows |= cards(model, next(part for part in model.split("_") if part.startswith("resnet")))
    return rows


def detectron2(group: str, *rows: Row) -> dict[str, Weights]:
    """Rows of a group of Detectron2's model zoo: config, `id/file`. A file has the beginning of its MD5 in its name.

    Source: MODEL_ZOO.md of Detectron2, commit 02b5c4e2.
    """
    return {
        f"{config}.detectron2": _card(
            f"{_DETECTRON2}/{group}/{config}/{file}.pkl",
            f"md5:{file.rpartition('_')[2]}",
            "detectron2",
            "cc-by-sa-3.0",
            "Detectron2 MODEL_ZOO.md",
            *values,
        )
        for config, file, *values in rows
    }


def mmdet(folder: str, *rows: Row) -> dict[str, Weights]:
    """Rows of a folder of MMDetection 2's model zoo: config without `_coco`, and the end of the file's name, or all of
    it if it does not begin as the config; it ends with the beginning of its SHA-256.

    Source: configs/*/metafile.yml of MMDetection 2.
    """

    def url(config: str, end: str) -> str:
        file = f"{config}_coco{end}" if end[0] in "-_" else end
        return f"{_MMDET}/{folder}/{config}_coco/{file}.pth".replace("+", "%2B")

    return {
        f"{config}.mmdet": _card(
            url(config, end),
            f"sha256:{end.rpartition('-')[2]}",
            "mmdet/caffe" if "_caffe_" in config else "mmdet",
            "apache-2.0",
            "MMDetection metafile.yml",
            *values,
        )
        for config, end, *values in rows
    }


def swin(*rows: Row) -> dict[str, Weights]:
    """Rows of Swin-Transformer-Object-Detection: name, `release/file`. No hash of its files is published.

    Source: README.md of Swin-Transformer-Object-Detection.
    """
    return {
        f"{name}.swin": _card(
            f"{_SWIN}/{file}.pth", "", "mmdet", "apache-2.0", "Swin-Transformer-Object-Detection README", *values
        )
        for name, file, *values in rows
    }


def _card(
    url: str,
    checksum: str,
    source: str,
    licence: str,
    reference: str,
    backbone: str,
    box_ap: float,
    other_ap: float | None = None,
) -> Weights:
    keypoints = re.search("keypoint_rcnn", url) is not None
    metrics = {"box_ap": box_ap}
    if other_ap is not None:
        metrics["keypoint_ap" if keypoints else "mask_ap"] = other_ap
    names = ("person",) if keypoints else coco_classes()
    return Weights(
        url=url,
        checksum=checksum,
        source=source,
        licence=licence,
        backbone=backbone,
        metrics=metrics,
        reference=reference,
        classes=len(names),
        class_names=names,
    )
