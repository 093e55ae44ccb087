"""References: what the original implementations answered, and the comparison of our answers with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vertebra import backbones
from vertebra.errors import VertebraError


@dataclass(frozen=True)
class Reference:
    """Outputs of an original implementation."""

    path: Path
    name: str
    """Our public name of the backbone."""
    source: str
    """Whose names the tensors bear."""
    spec: Mapping[str, Any] = field(repr=False)
    detects: bool = False
    """Whether it is of a detector, or a part of one with the pyramid."""

    @property
    def classifies(self) -> bool:
        """Whether it is of a whole classifier; else, if of no detector, of a backbone with normalised maps."""
        return "logits" in self.spec["outputs"]


@dataclass(frozen=True)
class Comparison:
    """How far a model is from a reference."""

    reference: Reference
    difference: float
    """Largest absolute difference over all outputs, in standard deviations of the output."""
    compared: list[str]
    """Outputs that were compared."""
    problems: list[str]
    """One entry per output that is beyond the tolerance or has another shape; empty when all agree."""
    remarks: list[str] = field(default_factory=list)
    """Outputs that were compared in part or together, and why."""


_SOURCES = {"timm": "timm", "tv": "torchvision", "hf": "transformers"}  # others are the official repositories
_NAME = re.compile(r"(?:(timm|tv|hf|wzm|ms|res2net_official|hrnet_cls)_)?(.+?)(?:_eps|_feat|_det_backbone|_a2_b4)?")
_DETECTOR = re.compile(
    r"tv_(?:fasterrcnn|maskrcnn|keypointrcnn|retinanet|frozen)_(?P<tv>\w+?)_fpn(?:_v2)?(?:_eps)?"
    r"|mmdet_(?:(?:cascade_)?(?:faster_|mask_)?rcnn|retinanet)_(?P<mmdet>\w+?)(?:_fpn)?(?:_\dx)?(?:_coco)?"
)
_MMDET = (  # its names of backbones, and ours
    (r"r(\d+)", r"resnet\1"),
    (r"x(\d+)_(\d+x\d+d)", r"resnext\1_\2"),
    (r"r2_101", "res2net101_v1b"),
    (r"hrnet(?:v2p)?_w(\d+)", r"hrnet_w\1"),
)


def references(folder: Path) -> Iterator[Reference]:
    """The references in `folder` of models that we have: classifiers, backbones and detectors."""
    for path in _files(folder):
        if (reference := _known(path, json.loads(path.read_text()))) is not None:
            yield reference


def others(folder: Path) -> list[str]:
    """The names of the references in `folder` that are of no model that we have."""
    return [path.stem for path in _files(folder) if _known(path, json.loads(path.read_text())) is None]


def _files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise VertebraError(f"{folder} is not a folder of reference files.")
    for path in sorted(folder.glob("*.json")):
        if path.with_suffix(".npz").is_file():  # not facts.json
            yield path


def _known(path: Path, spec: Mapping[str, Any]) -> Reference | None:
    try:
        if match := _DETECTOR.fullmatch(spec["id"]):
            found = match["tv"] or match["mmdet"]
            for pattern, to in _MMDET if match["mmdet"] else ():
                if re.fullmatch(pattern, found):
                    found = re.sub(pattern, to, found)
                    break
            source = "torchvision" if match["tv"] else "mmdet"
            return Reference(path, backbones.public_name(found), source, spec, detects=True)
        match = _NAME.fullmatch(spec["id"])
        maps = all(re.fullmatch(r"feature\d", key) for key in spec["outputs"])
        if match and (maps or "logits" in spec["outputs"]):
            name = backbones.public_name(("hrnet_" if match[1] == "hrnet_cls" else "") + match[2])
            return Reference(path, name, _SOURCES.get(match[1], "official"), spec)
    except VertebraError:
        pass  # a backbone that we do not have
    return None


def judged(
    reference: Reference,
    outputs: Mapping[str, Tensor],
    sums: Sequence[tuple[Sequence[str], Tensor]] = (),
    *,
    rtol: float = 1e-4,
    atol: float = 1e-4,
) -> Comparison:
    """Compares our tensors with the reference's.

    An element agrees when |ours - theirs| <= rtol * |theirs| + atol * (deviation of the whole output) + 1e-7. A row of
    the reference may set its own `rtol`, and with `may_differ` the share of elements that need not agree.

    Args:
        outputs: ours, by the reference's keys; where they are NaN, we have no such element, and none is compared.
        sums: numbers of ours that the reference has in parts, by the keys of those.
    """
    arrays = np.load(reference.path.with_suffix(".npz"), allow_pickle=False)
    rows = reference.spec["outputs"]

    def theirs(key: str) -> Tensor:
        return torch.from_numpy(arrays[rows[key]["array"]]).reshape(-1).double()

    largest = 0.0
    compared: list[str] = []
    problems: list[str] = []
    remarks: list[str] = []
    for keys, total in sums:
        wanted = sum(float(theirs(key)) for key in keys)
        compared += keys
        remarks.append(f"{keys[0]} to {keys[-1]}: their sum was compared")
        if abs(float(total) - wanted) > max(rows[key].get("rtol", rtol) for key in keys) * abs(wanted) + 1e-7:
            problems.append(f"{keys[0]} to {keys[-1]}: their sum is {float(total):.6g}, expected {wanted:.6g}")
    for key, row in rows.items():
        if key in compared:
            continue
        if key not in outputs:
            problems.append(f"{key}: no output of ours stands for it")
            continue
        ours, other = outputs[key].detach(), theirs(key)
        if ours.numel() == 1 and list(ours.shape) in ([], [1]) and row["shape"] in ([], [1]):
            ours = ours.reshape(row["shape"])
        if list(ours.shape) != row["shape"]:
            problems.append(f"{key}: shape {list(ours.shape)}, expected {row['shape']}")
            continue
        compared.append(key)
        sampled = ours.reshape(-1)[:: row["step"]].double()
        ours_only = ~sampled.isnan()
        if not bool(ours_only.all()):
            remarks.append(f"{key}: {int((~ours_only).sum())} of {len(sampled)} elements are the background's")
            sampled, other = sampled[ours_only], other[ours_only]
        if not len(sampled):
            continue
        apart = (sampled - other).abs()
        if row["std"] > 0:
            largest = max(largest, float(apart.max()) / row["std"])
        beyond = ~(apart <= row.get("rtol", rtol) * other.abs() + atol * row["std"] + 1e-7)
        if int(beyond.sum()) > row.get("may_differ", 0.0) * len(beyond):
            problems.append(f"{key}: largest difference {float(apart.max()):.2e} at a deviation of {row['std']:.2e}")
    return Comparison(reference, largest, compared, problems, remarks)
