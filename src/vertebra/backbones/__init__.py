"""Backbones by name. A module of this folder that has VARIANTS is a family; nothing needs to be registered.

A family module has MODEL, VARIANTS (a Config by public name), ALIASES, WEIGHTS (known checkpoints) and RULES (by
source, a table of rules or a function from the config to one). It may have
- PRESETS: by source or table, the fields of its Config that its models compute with: a mapping, or a function from the
  config and the file's tensors to one;
- MARKS: by table, a pattern of tensor names by which its files are recognised where several tables fit;
- PUBLISHED: ImageNet accuracies and who measured them.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from vertebra.backbones.base import Backbone
from vertebra.backbones.fitting import Fit, fit_model
from vertebra.errors import VertebraError, check_fields, nearest
from vertebra.options import as_tuples
from vertebra.weights import Checkpoint, open_checkpoint

__all__ = ["Backbone", "Fit", "create", "families", "family", "fit", "fit_state", "names", "public_name"]


@cache
def families() -> dict[str, ModuleType]:
    """Every family by the name of its file."""
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return {module.__name__.rpartition(".")[2]: module for module in modules if hasattr(module, "VARIANTS")}


def names() -> list[str]:
    """Every public backbone name, family by family."""
    return [name for module in families().values() for name in module.VARIANTS]


def public_name(name: str) -> str:
    """`name` itself if it is public, or the public name that timm's or torchvision's `name` stands for.

    Raises:
        VertebraError: if there is none; the message has the nearest public name.
    """
    for module in families().values():
        if name in module.VARIANTS:
            return name
        if name in module.ALIASES:
            return str(module.ALIASES[name])
    raise VertebraError(f"no backbone is named {name!r}; `vertebra models` lists them.{nearest(name, names())}")


def family(name: str) -> ModuleType:
    """The module of the family that backbone `name` belongs to; raises as `public_name`."""
    public = public_name(name)
    return next(module for module in families().values() if public in module.VARIANTS)


def fit(name: str, checkpoint: Checkpoint, *, source: str | None = None, **overrides: Any) -> Fit:
    """The options that a checkpoint needs of backbone `name`, and its tensors under the backbone's own names.

    Args:
        name: a public name or an alias.
        checkpoint: of a whole classifier or of the backbone.
        source: whose names the tensors bear (a key of the family's RULES, or `vertebra`); detected if None.
        overrides: fields of the family's Config that the user set; the checkpoint does not change these.

    Raises:
        VertebraError: if the name, a field or the source is unknown.
    """
    model = _on_meta(name, overrides)
    return fit_model(
        model, checkpoint.state, checkpoint.source(source), checkpoint.path, checkpoint.about, overrides.keys()
    )


def fit_state(name: str, state: Mapping[str, Tensor], *, source: str | None, path: str | Path, **overrides: Any) -> Fit:
    """As `fit`, from tensors by name; `path` is the file that they are from, for messages."""
    return fit_model(_on_meta(name, overrides), state, source, path, overrides=overrides.keys())


def create(
    name: str, *, weights: str | Path | Checkpoint | None = None, source: str | None = None, **overrides: Any
) -> Backbone:
    """A backbone, newly initialised or filled from a checkpoint.

    Args:
        name: a public name, or an alias of timm or torchvision.
        weights: a checkpoint as `Backbone.load` takes it; all of it must fit. Its report is kept as `backbone.report`.
        source: whose names the checkpoint's tensors bear; detected if None.
        overrides: fields of the family's Config to replace, such as `channels`, `drop_path` or `embedding`. They win
            over the options that the checkpoint's source computes with.

    Raises:
        VertebraError: if the name or a field is unknown, or the checkpoint cannot be read or does not fit.
    """
    if weights is None:
        return _build(name, overrides)
    fitted = fit(name, open_checkpoint(weights, family(name).WEIGHTS, source), source=source, **overrides)
    model = _build(name, {**fitted.options, **overrides})
    model.fill(fitted.state, fitted.report)
    return model


def _build(name: str, options: Mapping[str, Any]) -> Backbone:
    module = family(name)
    config = module.VARIANTS[public_name(name)]
    check_fields(name, options, {field.name for field in dataclasses.fields(config)})
    plain = {key: as_tuples(value) for key, value in options.items()}  # as they come from JSON
    model: Backbone = module.MODEL(dataclasses.replace(config, **plain))
    return model


def _on_meta(name: str, options: Mapping[str, Any]) -> Backbone:
    with torch.device("meta"):
        return _build(name, options)
