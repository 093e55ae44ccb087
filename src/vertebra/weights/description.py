"""What a checkpoint of ours says of its model, checked as a whole before anything is built from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vertebra.errors import VertebraError, in_range, shown
from vertebra.files import parse_json
from vertebra.options import check_types
from vertebra.structures import Preprocess, check_classes

_REQUIRED = ("task", "model", "preprocess")
_LARGEST = 1_000_000
"""Of a number among the options of a model, the sign apart."""
_LONGEST = 20_000_000
"""Characters of a string among the options of a model, such as a vocabulary."""
_MOST_HEADS = 100
_DEPTH = 8
"""Levels of lists and mappings in one another, among the options of a model."""


@dataclass(frozen=True)
class _Entries:
    """The entries that have a meaning here; others, of later versions, are kept as they are."""

    version: str
    task: str
    method: str
    model: Mapping[str, Any]
    classes: tuple[str, ...]
    preprocess: Mapping[str, Any]
    metrics: Mapping[str, Any] | None
    epoch: int
    data: Mapping[str, Any]


@dataclass(frozen=True)
class _Data:
    """What the model was trained on."""

    path: str | None
    val_share: float
    seed: int


@dataclass(frozen=True)
class _Backbone:
    """The options of a model that concern its backbone."""

    backbone: str
    backbone_options: Mapping[str, Any]


@dataclass(frozen=True)
class _Metrics:
    """The metrics that are used again."""

    threshold: float | None
    thresholds: tuple[float, ...] | None


def parse(text: str, path: object) -> dict[str, Any]:
    """The description in the metadata of a file.

    Args:
        text: JSON.
        path: the file, for messages.

    Returns:
        The description. Those of its heads, if it has any, are as complete as that of a model of its own.

    Raises:
        VertebraError: naming the file and the entry that is missing or wrong.
    """
    try:
        about = parse_json(text, "JSON")
        _check(about)
        heads = about.get("heads", {})
        if not isinstance(heads, dict) or len(heads) > _MOST_HEADS:
            raise VertebraError(f"heads is {shown(heads)}, not a mapping of {_MOST_HEADS} heads at most.")
        for name, head in heads.items():
            _check(head)
            metrics = _part(about.get("metrics") or {}, name)
            heads[name] = {"version": about.get("version", ""), **head, "metrics": metrics}
            heads[name] |= {"epoch": about["epoch"]} if "epoch" in about else {}
            _check(heads[name])
    except VertebraError as error:
        raise VertebraError(f"{path} describes its model in a way this version cannot read: {error}") from error
    return about


def _check(about: Any) -> None:
    """Raises if a description, of a model or of one of its heads, has an entry that is missing or wrong."""
    if not isinstance(about, dict):
        raise VertebraError(f"it is {shown(about)}, not a mapping.")
    if missing := [name for name in _REQUIRED if name not in about]:
        raise VertebraError(f"it has no {missing[0]}.")
    check_types(_Entries, about)
    if "classes" in about:
        check_classes(about["classes"])
    Preprocess.from_dict(about["preprocess"])
    check_types(_Backbone, about["model"], "model.")
    _check_values(about["model"], "model")
    check_types(_Metrics, about.get("metrics") or {}, "metrics.")
    in_range("metrics.threshold", (about.get("metrics") or {}).get("threshold"), 0, 1)
    _check_thresholds((about.get("metrics") or {}).get("thresholds"), about.get("classes", ()))
    check_types(_Data, about.get("data", {}), "data.")


def _part(metrics: Mapping[str, Any], head: str) -> dict[str, Any]:
    """The metrics of one head, whose names begin with its name, without that."""
    return {key.removeprefix(f"{head}/"): value for key, value in metrics.items() if key.startswith(f"{head}/")}


def _check_thresholds(thresholds: Sequence[float] | None, classes: Sequence[str]) -> None:
    """Raises if there is not one threshold per class in 0..1."""
    for value in thresholds or ():
        in_range("metrics.thresholds", value, 0, 1)
    if thresholds is not None and len(thresholds) != len(classes):
        raise VertebraError(f"metrics.thresholds has {len(thresholds)} numbers for {len(classes)} classes.")


def _check_values(value: Any, entry: str, depth: int = 0) -> None:
    """Raises if an option of a model is larger than that of any model."""
    if isinstance(value, dict | list):
        if depth == _DEPTH:
            raise VertebraError(f"{shown(entry)} is nested too deeply.")
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            _check_values(item, f"{entry}.{key}", depth + 1)
    elif isinstance(value, str):
        if len(value) > _LONGEST:
            raise VertebraError(f"{shown(entry)} is {shown(value)}, of {len(value):,} characters.")
    elif isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= _LARGEST):
        raise VertebraError(f"{shown(entry)} is {shown(value)}; no number there is beyond {_LARGEST:,}.")
