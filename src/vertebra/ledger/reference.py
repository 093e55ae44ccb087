"""References: outputs of the original implementations, and the comparison of ours with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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
    """Outputs of an original implementation of a backbone or a whole classifier."""

    path: Path
    name: str
    """Our public name of the backbone."""
    source: str
    """Library whose names the tensors have: a key of the family's RULES."""
    spec: Mapping[str, Any] = field(repr=False)
    """The contents of the JSON file."""

    @property
    def classifies(self) -> bool:
        """Whether it is of a whole classifier; else of a backbone with normalised maps."""
        return "logits" in self.spec["outputs"]


@dataclass(frozen=True)
class Comparison:
    """Our outputs compared with a reference's."""

    reference: Reference
    difference: float
    """Largest absolute difference over all outputs, in standard deviations of the output."""
    compared: list[str]
    """Outputs that were compared."""
    problems: list[str]
    """One entry per output that is beyond the tolerance or has another shape; empty if all agree."""
    remarks: list[str] = field(default_factory=list)
    """Outputs that were compared in part, and why."""


def references(folder: Path) -> Iterator[Reference]:
    """The references in `folder` of backbones and classifiers that we have."""
    for path in _files(folder):
        if (reference := _read(path)) is not None:
            yield reference


def others(folder: Path) -> list[str]:
    """The names of the other references in `folder`, such as those of whole detectors."""
    return [path.stem for path in _files(folder) if _read(path) is None]


def _files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise VertebraError(f"{folder} is not a folder of reference files.")
    for path in sorted(folder.glob("*.json")):
        if path.with_suffix(".npz").is_file():  # not facts.json
            yield path


def _read(path: Path) -> Reference | None:
    spec = json.loads(path.read_text())
    if "backbone" in spec:
        return Reference(path, spec["backbone"], spec["source"], spec)
    maps = all(key[:-1] == "feature" and key[-1].isdigit() for key in spec["outputs"])
    if not maps and "logits" not in spec["outputs"]:
        return None
    try:
        name, source = backbone_of_id(spec["id"])
    except VertebraError:
        return None
    return Reference(path, name, source, spec)


_PREFIXES = {
    "timm_": ("timm", ""),
    "tv_": ("torchvision", ""),
    "hf_": ("transformers", ""),
    "ms_": ("official", ""),
    "wzm_": ("official", ""),
    "res2net_official_": ("official", ""),
    "hrnet_cls_": ("official", "hrnet_"),
}
_SUFFIXES = ("_eps", "_feat", "_det_backbone", "_a2_b4")


def backbone_of_id(identity: str) -> tuple[str, str]:
    """The backbone and the source of a reference that does not state them, from its id.

    An id is `[library_]model[_part]`: the library or repository (none for a backbone's own repository), the model's
    name there, and the part of it or the setting that is compared: `timm_resnet18_eps`, `cyclemlp_b2_feat`.

    Raises:
        VertebraError: if we have no such backbone.
    """
    prefix = next((prefix for prefix in _PREFIXES if identity.startswith(prefix)), "")
    source, start = _PREFIXES.get(prefix, ("official", ""))
    name = start + identity.removeprefix(prefix)
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return backbones.public_name(name), source


def compare_outputs(
    reference: Reference, outputs: Mapping[str, Tensor], *, rtol: float = 1e-4, atol: float = 1e-4
) -> Comparison:
    """Compares our tensors with the reference's.

    An element agrees if |ours - theirs| <= rtol * |theirs| + atol * (standard deviation of the output) + 1e-7. A row of
    the reference may set its own `rtol`, and with `may_differ` the fraction of elements that need not agree.

    Args:
        outputs: ours, by the reference's keys; NaN marks elements that we do not compute, which are not compared.
    """
    arrays = np.load(reference.path.with_suffix(".npz"), allow_pickle=False)
    largest = 0.0
    compared: list[str] = []
    problems: list[str] = []
    remarks: list[str] = []
    for key, row in reference.spec["outputs"].items():
        if key not in outputs:
            problems.append(f"{key}: no output of ours stands for it")
            continue
        ours = outputs[key].detach()
        theirs = torch.from_numpy(arrays[row["array"]]).reshape(-1).double()
        if ours.numel() == 1 and list(ours.shape) in ([], [1]) and row["shape"] in ([], [1]):
            ours = ours.reshape(row["shape"])
        if list(ours.shape) != row["shape"]:
            problems.append(f"{key}: shape {list(ours.shape)}, expected {row['shape']}")
            continue
        compared.append(key)
        sampled = ours.reshape(-1)[:: row["step"]].double()
        computed = ~sampled.isnan()
        if not bool(computed.all()):
            remarks.append(f"{key}: {int((~computed).sum())} of {len(sampled)} elements have no counterpart here")
            sampled, theirs = sampled[computed], theirs[computed]
        if not len(sampled):
            continue
        difference = (sampled - theirs).abs()
        if row["std"] > 0:
            largest = max(largest, float(difference.max()) / row["std"])
        beyond = ~(difference <= row.get("rtol", rtol) * theirs.abs() + atol * row["std"] + 1e-7)
        if int(beyond.sum()) > row.get("may_differ", 0.0) * len(beyond):
            problems.append(
                f"{key}: largest difference {float(difference.max()):.2e} at a standard deviation of {row['std']:.2e}"
            )
    return Comparison(reference, largest, compared, problems, remarks)
