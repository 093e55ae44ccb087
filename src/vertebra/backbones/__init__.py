"""Backbones by name. A module of this folder that has VARIANTS is a family; nothing needs to be registered."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from vertebra.backbones.base import Backbone
from vertebra.errors import VertebraError, check_fields, nearest

__all__ = ["Backbone", "create", "families", "family", "names", "public_name"]


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
        VertebraError: if there is none; the sentence holds the nearest public name.
    """
    for module in families().values():
        if name in module.VARIANTS:
            return name
        if name in module.ALIASES:
            return str(module.ALIASES[name])
    raise VertebraError(f"no backbone is called {name!r}; `vertebra models` lists them.{nearest(name, names())}")


def family(name: str) -> ModuleType:
    """The module of the family that backbone `name` belongs to; raises as `public_name`."""
    public = public_name(name)
    return next(module for module in families().values() if public in module.VARIANTS)


def create(name: str, *, weights: str | Path | None = None, **overrides: Any) -> Backbone:
    """A backbone, freshly initialised or filled from a checkpoint.

    Args:
        name: a public name, or an alias of timm or torchvision.
        weights: what `Backbone.load` takes; it must fit.
        overrides: fields of the family's Config to replace, such as `channels`, `drop_path` or `embedding`.

    Raises:
        VertebraError: if the name or a field is unknown.
    """
    module = family(name)
    config = module.VARIANTS[public_name(name)]
    fields = {field.name for field in dataclasses.fields(config)}
    check_fields(name, overrides, fields)
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}  # as they come from JSON
    model: Backbone = module.MODEL(dataclasses.replace(config, **plain))
    if weights is not None:
        model.load(weights)
    return model
