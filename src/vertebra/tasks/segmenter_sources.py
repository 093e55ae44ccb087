"""Segmenter checkpoints of torchvision, MMSegmentation, Hugging Face, HRNet's and BPR's authors: names and options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from vertebra.necks import FPN
from vertebra.tasks.sources import Source, Tensors
from vertebra.weights import Drop, Join, Rename, Rules


def _modules(prefix: str, to: str, norm: str = "bn") -> Rules:
    """MMCV's ConvModule and Hugging Face's, in which the norm is called `norm`."""
    return (
        Rename(rf"^{prefix}conv\.", f"{to}conv."),
        Rename(rf"^{prefix}(?:{norm}|gn)\.", f"{to}norm."),
    )


def _open_mmlab(norm: str, classify: str) -> Rules:
    """The heads of MMSegmentation, whose names Hugging Face has kept but for the norms and classifiers."""
    return (
        *_modules(r"decode_head\.psp_modules\.(\d)\.1\.", r"decoder.pooling.pooled.\1.", norm),
        *_modules(r"decode_head\.bottleneck\.", "decoder.pooling.reduce.", norm),
        *_modules(r"decode_head\.lateral_convs\.(\d)\.", r"decoder.lateral.\1.", norm),
        *_modules(r"decode_head\.fpn_convs\.(\d)\.", r"decoder.output.\1.", norm),
        *_modules(r"decode_head\.fpn_bottleneck\.", "decoder.fuse.", norm),
        *_modules(r"decode_head\.convs\.(\d)\.", r"decoder.convs.\1.", norm),
        *_modules(r"decode_head\.conv_cat\.", "decoder.concat.", norm),
        # The convolutions of a level stand between upsamplings, which have numbers too.
        Rename(r"^decode_head\.scale_heads\.(\d)\.(\d)\.", lambda m: f"decoder.scales.{m[1]}.{int(m[2]) // 2}."),
        Rename(rf"^(decoder\.scales\.\d\.\d)\.{norm}\.", r"\1.norm."),
        Rename(rf"^decode_head\.{classify}\.", "decoder.classify.1."),
        *_modules(r"auxiliary_head\.convs\.(\d)\.", r"aux.convs.\1.", norm),
        *_modules(r"auxiliary_head\.conv_cat\.", "aux.concat.", norm),
        Rename(rf"^auxiliary_head\.{classify}\.", "aux.classify.1."),
    )


_RULES = {
    "mmseg": (*_open_mmlab("bn", "conv_seg"), *FPN.RULES["mmdet"], Rename(r"^neck\.", "fpn.")),
    "transformers": _open_mmlab("batch_norm", "classifier"),
    "torchvision": (
        Rename(r"^aux_classifier\.0\.", "aux.convs.0.conv."),
        Rename(r"^aux_classifier\.1\.", "aux.convs.0.norm."),
        Rename(r"^aux_classifier\.4\.", "aux.classify.1."),
    ),
    "official": (
        Rename(r"^model\.", ""),
        Drop(r"^loss\.|\.loss\.", "belongs to the training loss"),
        Rename(r"^last_layer\.0\.", "decoder.convs.0.conv."),
        Rename(r"^last_layer\.1\.", "decoder.convs.0.norm."),
        Rename(r"^last_layer\.3\.", "decoder.classify.1."),
        Rename(r"^aux_head\.0\.", "decoder.regions.convs.0.conv."),
        Rename(r"^aux_head\.1\.", "decoder.regions.convs.0.norm."),
        Rename(r"^aux_head\.3\.", "decoder.regions.classify.1."),
        Rename(r"^conv3x3_ocr\.0\.", "decoder.pixels.conv."),
        Rename(r"^conv3x3_ocr\.1\.", "decoder.pixels.norm."),
        Rename(r"^ocr_distri_head\.object_context_block\.f_pixel\.", "decoder.query."),
        Rename(r"^ocr_distri_head\.object_context_block\.f_object\.", "decoder.key."),
        Rename(r"^ocr_distri_head\.object_context_block\.f_down\.0\.", "decoder.value.conv."),
        Rename(r"^ocr_distri_head\.object_context_block\.f_down\.1\.0\.", "decoder.value.norm."),
        Rename(r"^ocr_distri_head\.object_context_block\.f_up\.0\.", "decoder.context.conv."),
        Rename(r"^ocr_distri_head\.object_context_block\.f_up\.1\.0\.", "decoder.context.norm."),
        Rename(r"^ocr_distri_head\.conv_bn_dropout\.0\.", "decoder.fuse.0.conv."),
        Rename(r"^ocr_distri_head\.conv_bn_dropout\.1\.0\.", "decoder.fuse.0.norm."),
        Rename(r"^cls_head\.", "decoder.classify.1."),
        Rename(r"^(decoder\.(?:query|key)\.)([02])\.", lambda m: f"{m[1]}{int(m[2]) // 2}.conv."),
        Rename(r"^(decoder\.(?:query|key)\.)([13])\.0\.", lambda m: f"{m[1]}{int(m[2]) // 2}.norm."),
    ),
}
_HEADS = r"(?:last_layer|aux_head|cls_head|conv3x3_ocr|ocr_\w+|loss)\b"
_TRUNK = Rename(rf"^(?:model\.)?(?!{_HEADS}|model\.)", "backbone.")
"""The authors keep the backbone's tensors at the top."""


_MASK_STEM = r"^backbone\.conv_mask\."
"""The convolution of the coarse mask, whose output is added to that of the image's, as if the two were one."""
ALIGNED = (150, 171)
"""Numbers of classes of ADE20K and COCO-Stuff: for these, the authors trained HRNetV2 with `align_corners`, which the
tensors do not show."""


def _num_classes(tensors: Tensors) -> int | None:
    return tensors.width("decoder.classify.1.bias", "decoder.classify.1.weight")


def _common(tensors: Tensors) -> dict[str, Any]:
    """The auxiliary head."""
    channels = tensors.width("aux.convs.0.conv.weight")
    return {"aux.channels": channels} if channels else {"aux.weight": 0.0}


def _uper(tensors: Tensors) -> dict[str, Any]:
    return _common(tensors) | {"channels": tensors.width("decoder.fuse.conv.weight")}


def _fpn(tensors: Tensors) -> dict[str, Any]:
    return _common(tensors) | {
        "channels": tensors.width("decoder.scales.0.0.conv.weight"),
        "neck_channels": tensors.width("fpn.lateral.0.conv.weight"),
        "head_norm": tensors.norm("decoder."),
    }


def _fcn(tensors: Tensors) -> dict[str, Any]:
    return _common(tensors) | {
        "channels": tensors.width("decoder.convs.0.conv.weight"),
        "num_convs": tensors.count(r"decoder\.convs\.\d\.conv\.weight"),
        "concat_input": tensors.has("decoder.concat."),
    }


def _hrnet(tensors: Tensors) -> dict[str, Any]:
    return _common(tensors) | {
        "channels": tensors.width("decoder.convs.0.conv.weight"),
        "head_bias": tensors.has("decoder.convs.0.conv.bias"),
    }


def _official_hrnet(tensors: Tensors) -> dict[str, Any]:
    return _hrnet(tensors) | {"align_corners": _num_classes(tensors) in ALIGNED}


def _official_table(state: Mapping[str, Tensor]) -> str:
    aligned = any(re.search(r"last_layer\.3\.weight$", name) and len(state[name]) in ALIGNED for name in state)
    return "official/ocr" if aligned else "official/segmentation"


def _ocr(tensors: Tensors) -> dict[str, Any]:
    return {
        "channels": tensors.width("decoder.pixels.conv.weight"),
        "key_channels": tensors.width("decoder.value.conv.weight"),
    }


def _deeplab(tensors: Tensors) -> dict[str, Any]:
    return _common(tensors) | {"channels": tensors.width("decoder.conv.conv.weight")}


_SOURCE = Source(marks=(), num_classes=_num_classes, options=_common)
_MMSEG = replace(_SOURCE, rules=_RULES["mmseg"], preprocess={"antialias": False, "rounding": "nearest"})
_TORCHVISION = replace(_SOURCE, preprocess={"antialias": False})
_OFFICIAL = replace(_SOURCE, stage=_TRUNK, rules=_RULES["official"])
_FCN_RULES = (
    Rename(r"^classifier\.0\.", "decoder.convs.0.conv."),
    Rename(r"^classifier\.1\.", "decoder.convs.0.norm."),
    Rename(r"^classifier\.4\.", "decoder.classify.1."),
)
_DEEPLAB_RULES = (
    Rename(r"^classifier\.0\.convs\.([0-3])\.0\.", r"decoder.aspp.branches.\1.conv."),
    Rename(r"^classifier\.0\.convs\.([0-3])\.1\.", r"decoder.aspp.branches.\1.norm."),
    Rename(r"^classifier\.0\.convs\.4\.1\.", "decoder.aspp.pooled.conv."),
    Rename(r"^classifier\.0\.convs\.4\.2\.", "decoder.aspp.pooled.norm."),
    Rename(r"^classifier\.0\.project\.0\.", "decoder.aspp.reduce.conv."),
    Rename(r"^classifier\.0\.project\.1\.", "decoder.aspp.reduce.norm."),
    Rename(r"^classifier\.1\.", "decoder.conv.conv."),
    Rename(r"^classifier\.2\.", "decoder.conv.norm."),
    Rename(r"^classifier\.4\.", "decoder.classify.1."),
)

UPERNET_SOURCES = {
    "mmseg": replace(_MMSEG, marks=(r"^decode_head\.psp_modules\.", r"^decode_head\.conv_seg\."), options=_uper),
    "transformers": replace(
        _SOURCE,
        marks=(r"^decode_head\.psp_modules\.", r"^decode_head\.classifier\."),
        rules=_RULES["transformers"],
        options=_uper,
        table=lambda _: "transformers/backbone",
    ),
}
SEMANTIC_FPN_SOURCES = {"mmseg": replace(_MMSEG, marks=(r"^decode_head\.scale_heads\.",), options=_fpn)}
FCN_SOURCES = {
    "torchvision": replace(
        _TORCHVISION,
        marks=(r"^backbone\.layer4\.", r"^classifier\.4\.weight"),
        without=(r"^classifier\.0\.convs\.",),
        rules=(*_RULES["torchvision"], *_FCN_RULES),
        options=_fcn,
    ),
    "mmseg": replace(
        _MMSEG,
        marks=(r"^backbone\.layer4\.", r"^decode_head\.convs\.0\."),
        without=(r"^decode_head\.(psp_modules|image_pool)\.",),
        options=_fcn,
    ),
}
HRNETV2_SOURCES = {
    "official": replace(
        _OFFICIAL,
        marks=(r"^(model\.)?last_layer\.", r"^(model\.)?transition1\."),
        options=_official_hrnet,
        table=_official_table,
    ),
    "mmseg": replace(
        _MMSEG,
        marks=(r"^backbone\.transition1\.", r"^decode_head\.convs\.0\."),
        without=(_MASK_STEM,),
        options=_hrnet,
    ),
}
BPR_SOURCES = {
    "mmseg": replace(
        _MMSEG,
        marks=(_MASK_STEM, r"^decode_head\.convs\.0\."),
        backbone_rules=(Join(r"^(conv1|conv_mask)\.weight$", ("conv1", "conv_mask"), "conv1", dim=1),),
        options=_hrnet,
    )
}
OCR_SOURCES = {
    "official": replace(
        _OFFICIAL,
        marks=(r"^(model\.)?ocr_distri_head\.",),
        options=_ocr,
        preset={"align_corners": True},
        table=lambda _: "official/ocr",
    )
}
DEEPLABV3_SOURCES = {
    "torchvision": replace(
        _TORCHVISION,
        marks=(r"^classifier\.0\.convs\.4\.",),
        without=(r"^backbone\.low_level",),
        rules=(*_RULES["torchvision"], *_DEEPLAB_RULES),
        options=_deeplab,
    )
}
DEEPLABV3PLUS_SOURCES: dict[str, Source] = {}
