"""Detector checkpoints of torchvision, Detectron2 and MMDetection: names, options, and what the libraries differ in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from vertebra.heads.box import BoxHead
from vertebra.heads.cascade import STAGE_WEIGHTS
from vertebra.heads.keypoint import KeypointHead
from vertebra.heads.mask import MaskHead
from vertebra.heads.rpn import RPN
from vertebra.necks import FPN, HRFPN
from vertebra.tasks.sources import Source, Tensors, norm_kind
from vertebra.weights import Drop, Rename, Rules

BACKBONES = {
    "torchvision": ("backbone.body.",),
    "detectron2": ("backbone.bottom_up.", "backbone."),
    "mmdet": ("backbone.",),
}
"""Prefixes of the backbone's tensors."""
PREPROCESS = {
    "torchvision": {"antialias": False, "rounding": "down"},
    "detectron2": {"antialias": True, "rounding": "nearest"},  # it resizes with Pillow, which antialiases
    "mmdet": {"antialias": False, "rounding": "nearest"},  # OpenCV does not
}
"""How images are resized."""
DROPS = {
    "torchvision": (),
    "detectron2": (
        Drop(r"anchor_generator\.cell_anchors", "computed from the sizes"),
        Drop(r"^pixel_(mean|std)$", "images are normalised as `preprocess` has it"),
    ),
    "mmdet": (),
}


def detector_rules(library: str, *parts: Any) -> Any:
    """The rules of a detector over a pyramid, as a function of the names in the file; `parts` have RULES."""

    def rules(names: Iterable[str]) -> Rules:
        neck = HRFPN if any(name.startswith("neck.reduction_conv.") for name in names) else FPN
        return (*DROPS[library], *(rule for part in (neck, *parts) for rule in part.RULES[library]))

    return rules


def number_levels(head_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Pyramid levels numbered from the finest; those without a lateral connection are extra levels."""
    pattern = r"neck\.lateral\.(\d)\.conv\.weight"
    numbers = [int(m[1]) for name in head_state if (m := re.match(pattern, name))]
    if not numbers:
        return head_state

    def renumber(match: re.Match[str]) -> str:
        level = int(match[2]) - min(numbers)
        if level < len(numbers):
            return f"neck.{match[1]}.{level}.{match[3]}."
        place = f"extra.convs.{level - len(numbers)}."
        return f"{place}{match[3]}." if f"neck.{match[1]}.{match[2]}.norm.weight" in head_state else place

    pattern = r"^neck\.(lateral|output)\.(\d)\.(conv|norm)\."
    return {re.sub(pattern, renumber, name): tensor for name, tensor in head_state.items()}


def detectron2_table(state: Mapping[str, Tensor]) -> str | None:
    """`detectron2/rgb` for models trained on RGB images from torchvision's weights: the mean of red is the greatest."""
    mean = state.get("pixel_mean")
    return "detectron2/rgb" if mean is not None and float(mean.flatten()[0]) > float(mean.flatten()[-1]) else None


def backbone_options(tensors: Tensors) -> dict[str, Any]:
    """The option `norm`, of backbones with group norm."""
    names = tensors.backbone_state
    grouped = {
        "mmdet": any(re.search(r"(^|\.)gn\d\.", name) for name in names),
        "detectron2": norm_kind(f".{name}" for name in names) == "group",
    }
    return {"norm": "group"} if grouped.get(tensors.library) else {}


def pyramid_options(tensors: Tensors) -> dict[str, Any]:
    """Options of the backbone, the pyramid and the norm of the heads."""
    options = backbone_options(tensors) | {"head_norm": tensors.norm("box.", "mask.", "dense.")}
    if tensors.has("neck.reduction."):
        return options | {"neck.name": "hrfpn", "neck.channels": tensors.width("neck.reduction.bias")}
    options["neck.channels"] = tensors.width("neck.output.0.conv.weight")
    return options | {"neck.norm": tensors.norm("neck.")}


def dense_options(tensors: Tensors) -> dict[str, Any]:
    """Options of detectors without proposals: those of the pyramid, and the source and norm of its extra levels."""
    options = pyramid_options(tensors)
    for name in ("extra.convs.0.weight", "extra.convs.0.conv.weight"):  # without and with a norm
        if (first := tensors.head_state.get(name)) is not None:
            options["extra_levels.source"] = "pyramid" if first.shape[1] == first.shape[0] else "backbone"
            options["extra_levels.norm"] = name != "extra.convs.0.weight"
    return options


def dense_num_classes(tensors: Tensors) -> int | None:
    """Number of classes of a head with four deltas for every anchor."""
    anchors, width = tensors.width("dense.deltas.bias"), tensors.width("dense.classify.bias")
    return None if anchors is None or width is None else width // (anchors // 4)


def frozen_norm_options(tensors: Tensors) -> dict[str, Any]:
    """torchvision's first detectors were trained with frozen norms, which count no batches, and without an epsilon."""
    counted = any(name.endswith("num_batches_tracked") for name in tensors.file_names)
    exact = tensors.library == "torchvision" and not counted
    return {"norm_eps": 0.0} if exact else {}


STAGES = {
    "detectron2": Rename(r"^roi_heads\.res5\.", "backbone.res5."),
    "mmdet": Rename(r"^roi_head\.shared_head\.", "backbone."),
}
"""Where C4 detectors keep the backbone's last stage, and where the backbone's table expects it."""

_TORCHVISION = {
    "anchors.offset": 0.0,
    "anchors.rounded": True,
    "anchors.inferred_strides": True,
    "roi_align.aligned": False,
}
_DETECTRON2 = {
    "min_box_size": 1e-6,
    "anchors.offset": 0.0,
    "rpn_post_nms_top_n_train": 1000,
    "roi_align.sampling_ratio": 0,
    "rpn_beta": 0.0,
    "box_loss.beta": 0.0,
}
_MMDET = {
    "min_box_size": 0.0,
    "anchors.offset": 0.0,
    "rpn_low_quality_iou": 0.3,
    "rpn_post_nms_top_n_train": 1000,
    "roi_align.sampling_ratio": 0,
    "rpn_beta": 0.0,
    "box_loss.beta": 0.0,
}
_C4_STAGE = {library: stage.pattern for library, stage in STAGES.items()}
_CASCADE = {"detectron2": r"^roi_heads\.box_head\.0\.", "mmdet": r"^roi_head\.bbox_head\.0\."}
_PARTS = (RPN, BoxHead, MaskHead, KeypointHead)


def num_classes(tensors: Tensors) -> int | None:
    """Number of classes of the box head, without the background."""
    width = tensors.width("box.classify.bias", "box.0.classify.bias")
    return None if width is None else width - 1


def _box_options(tensors: Tensors) -> dict[str, Any]:
    return {
        "rpn_num_convs": tensors.count(r"rpn\.convs\.\d+\.conv\.weight") or None,
        "box_head": "4conv1fc" if tensors.has("box.trunk.convs.", "box.0.trunk.convs.") else "2fc",
        "box_width": tensors.width("box.trunk.linears.0.bias", "box.0.trunk.linears.0.bias"),
    }


def _fpn_options(tensors: Tensors) -> dict[str, Any]:
    return pyramid_options(tensors) | _box_options(tensors) | frozen_norm_options(tensors)


def _c4_options(tensors: Tensors) -> dict[str, Any]:
    options = backbone_options(tensors)
    return options | {"rpn_num_convs": tensors.count(r"rpn\.convs\.\d+\.conv\.weight") or None}


def _source(library: str, **fields: Any) -> Source:
    source = Source(
        marks=(),
        backbone=BACKBONES[library],
        rules=detector_rules(library, *_PARTS),
        finish=number_levels,
        options=_fpn_options,
        num_classes=num_classes,
        preprocess=PREPROCESS[library],
        table=detectron2_table if library == "detectron2" else lambda _: None,
    )
    return replace(source, **fields)


FPN_SOURCES = {
    "torchvision": _source(
        "torchvision",
        marks=(r"^backbone\.body\.",),
        without=(r"^head\.",),
        preset=_TORCHVISION,
    ),
    "detectron2": _source(
        "detectron2",
        marks=(r"^backbone\.bottom_up\.", r"^(proposal_generator|roi_heads)\."),
        without=(_C4_STAGE["detectron2"], _CASCADE["detectron2"]),
        preset=_DETECTRON2,
    ),
    "mmdet": _source(
        "mmdet",
        marks=(r"^(rpn_head|roi_head)\.",),
        without=(_C4_STAGE["mmdet"], _CASCADE["mmdet"]),
        preset=_MMDET,
    ),
}
"""Two-stage detectors over a pyramid."""

C4_SOURCES = {
    library: _source(
        library,
        marks=(_C4_STAGE[library],),
        stage=STAGES[library],
        options=_c4_options,
        finish=dict,
        preset=preset | {"rpn_post_nms_top_n_train": 2000, "rpn_post_nms_top_n_test": 1000, "roi_batch_size": 512},
    )
    for library, preset in (("detectron2", _DETECTRON2), ("mmdet", _MMDET))
}
"""Two-stage detectors over a single map."""

CASCADE_SOURCES = {
    "detectron2": _source(
        "detectron2",
        marks=(r"^backbone\.bottom_up\.", _CASCADE["detectron2"]),
        preset=_DETECTRON2 | {"rpn_post_nms_top_n_train": 2000},
    ),
    "mmdet": _source(
        "mmdet",
        marks=(_CASCADE["mmdet"],),
        without=(r"^rpn_head\.init_proposal",),  # Sparse R-CNN's stages are named alike
        preset=_MMDET
        | {
            "rpn_post_nms_top_n_train": 2000,
            "rpn_inside_only": True,
            "average": "logits",
            # Its configs round the standard deviations: 0.033 and 0.067.
            "stage_weights": (*STAGE_WEIGHTS[:2], (1 / 0.033, 1 / 0.033, 1 / 0.067, 1 / 0.067)),
            "rpn_beta": 1 / 9,
            "box_loss.beta": 1.0,
        },
    ),
}
"""Cascades."""


def with_options(sources: dict[str, Source], options: Any, presets: dict[str, dict[str, Any]]) -> dict[str, Source]:
    """Sources of files with a further head: `options` reads its options off the tensors, `presets` are by library."""

    def extended(source: Source) -> Any:
        return lambda tensors: source.options(tensors) | options(tensors)

    return {
        library: replace(source, options=extended(source), preset={**source.preset, **presets.get(library, {})})
        for library, source in sources.items()
    }
