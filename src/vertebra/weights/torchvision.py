"""torchvision's published checkpoints, from its own list of them, which has their preprocessing, metrics and hashes."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from vertebra.structures import Preprocess
from vertebra.weights.card import Weights

METRICS = {"box_map": "box_ap", "mask_map": "mask_ap", "kp_map": "keypoint_ap", "miou": "miou", "acc@1": "top1"}
"""torchvision's names of metrics, and ours."""


@cache
def is_model(name: str) -> bool:
    """Whether torchvision has a model of this name, such as `maskrcnn_resnet50_fpn`."""
    from torchvision.models import list_models

    return name in list_models()


def url(name: str) -> str:
    """Where the file of one of torchvision's weights is, by torchvision's name of it; empty if it is no such name."""
    if "_Weights." not in name:
        return ""
    from torchvision.models import get_weight

    try:
        return str(get_weight(name).url)
    except (ValueError, KeyError, AttributeError):
        return ""


@cache
def cards(model: str, backbone: str) -> dict[str, Weights]:
    """The checkpoints of a model of torchvision, by names such as `maskrcnn_resnet50_fpn.coco`.

    Args:
        model: torchvision's name.
        backbone: our name of its backbone.
    """
    from torchvision.models import get_model_weights

    return {f"{model}.{_tag(weight.name)}": _card(weight, backbone) for weight in get_model_weights(model)}


def _tag(name: str) -> str:
    return name.lower().removesuffix("_v1")


def _card(weight: Any, backbone: str) -> Weights:
    digest = re.search(r"-([0-9a-f]{8,})\.", weight.url)
    meta = weight.meta
    values = next(iter(meta["_metrics"].values()))
    metrics = {METRICS[name]: value for name, value in values.items() if name in METRICS}
    names = tuple(meta["categories"])
    top1 = metrics.pop("top1", None)
    return Weights(
        url=weight.url,
        checksum=f"sha256:{digest[1]}" if digest else "",
        source="torchvision",
        licence="cc-by-nc-4.0" if "SWAG" in meta.get("license", "") else "bsd-3-clause",
        backbone=backbone,
        top1=top1,
        metrics=metrics,
        reference="torchvision",
        preprocess=_preprocess(weight.transforms()) if top1 else None,
        classes=len(names),
        class_names=() if top1 else _unique(names),
        size=round(meta["_file_size"] * 2**20) if "_file_size" in meta else None,
    )


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of classes; COCO's numbers that have no class are called after themselves."""
    return tuple(f"unused {i}" if name == "N/A" else name for i, name in enumerate(names))


def _preprocess(transforms: Any) -> Preprocess:
    crop, resize = transforms.crop_size[0], transforms.resize_size[0]
    return Preprocess(
        (crop, crop),
        crop / resize,
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


@cache
def coco_classes() -> tuple[str, ...]:
    """The 80 classes of COCO's detection task, in their order."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return tuple(name for name in names[1:] if name != "N/A")
