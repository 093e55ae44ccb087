"""Checkpoints of pose estimation of other libraries: names, and the options that they compute with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from vertebra.tasks.sources import Source, Tensors
from vertebra.tasks.top_down import keypoint_options
from vertebra.weights import Rename

_HEADS = r"(?:deconv_layers|final_layer)\."
_PARTS = ("conv", "norm")
_NAMES = (
    Rename(r"^(?:keypoint_)?head\.", ""),
    Rename(
        r"^deconv_layers\.(\d+)\.", lambda m: f"decoder.deconvs.{int(m[1]) // 3}.{_PARTS[min(1, int(m[1]) % 3)]}."
    ),  # each is followed by a norm and a ReLU, which have numbers too
    Rename(r"^final_layer\.", "decoder.final."),
)
_UNBIASED = {"udp": True, "decoding": "dark"}
"""How ViTPose was trained and is decoded, which the tensors do not show."""


def _options(tensors: Tensors) -> dict[str, Any]:
    vit = any(re.search(r"pos(ition)?_embed", name) for name in tensors.file_names)
    return {
        "channels": tensors.width("decoder.deconvs.0.norm.weight"),
        **keypoint_options(tensors.width("decoder.final.bias", "decoder.classify.1.bias")),
        **(_UNBIASED if vit else {}),
    }


def _landmark_options(tensors: Tensors) -> dict[str, Any]:
    return {**_options(tensors), "cell_offset": 0.5}


def _mmpose_table(state: Mapping[str, Tensor]) -> str:
    """HRNets and ViTs have names of their own there; other backbones have MMDetection's."""
    listed = any(re.match(r"backbone\.(transition1|pos_embed)", name) for name in state)
    return "mmpose" if listed else "mmdet"


def _official_table(state: Mapping[str, Tensor]) -> str:
    return "official" if any(name.startswith("transition1.") for name in state) else "torchvision"


_SOURCE = Source(marks=(), rules=_NAMES, options=_options)

SIMPLE_BASELINE_SOURCES = {
    "official": replace(
        _SOURCE,
        marks=(r"^conv1\.weight", r"^final_layer\.weight"),
        stage=Rename(rf"^(?!{_HEADS})", "backbone."),
        table=_official_table,
    ),
    "mmpose": replace(
        _SOURCE,
        marks=(
            r"^(backbone\.conv1\.weight|(keypoint_)?head\.deconv_layers\.0\.weight)$",
            r"^(keypoint_)?head\.final_layer\.weight",
        ),
        table=_mmpose_table,
    ),
    "transformers": replace(
        _SOURCE,
        marks=(r"^backbone\.embeddings\.", r"^head\.deconv1\.weight"),
        rules=(
            Rename(r"^head\.deconv([12])\.", lambda m: f"decoder.deconvs.{int(m[1]) - 1}.conv."),
            Rename(r"^head\.batchnorm([12])\.", lambda m: f"decoder.deconvs.{int(m[1]) - 1}.norm."),
            Rename(r"^head\.conv\.", "decoder.final."),
        ),
    ),
}
VITPOSE_SOURCES = {
    "mmpose": replace(
        _SOURCE,
        marks=(r"^backbone\.pos_embed", r"^(keypoint_)?head\.final_layer\.weight"),
        without=(r"^(keypoint_)?head\.deconv_layers\.",),
        table=_mmpose_table,
    ),
    "transformers": replace(
        _SOURCE,
        marks=(r"^backbone\.embeddings\.position_embeddings", r"^head\.conv\.weight"),
        without=(r"^head\.deconv",),
        rules=(Rename(r"^head\.conv\.", "decoder.final."),),
    ),
}
HRNETV2_SOURCES = {
    "official": replace(
        _SOURCE,
        marks=(r"^(module\.)?transition1\.", r"^(module\.)?head\.3\.weight"),
        stage=Rename(r"^(?:module\.)?(?!module\.|head\.)", "backbone."),
        rules=(
            Rename(r"^(?:module\.)?head\.0\.", "decoder.convs.0.conv."),
            Rename(r"^(?:module\.)?head\.1\.", "decoder.convs.0.norm."),
            Rename(r"^(?:module\.)?head\.3\.", "decoder.classify.1."),
        ),
        table=lambda _: "official/segmentation",
        options=_landmark_options,
    )
}
