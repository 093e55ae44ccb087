"""Backbones by name. A module of this folder that has VARIANTS is a family; nothing needs to be registered.

A family module has MODEL, VARIANTS (a Config by public name), ALIASES, WEIGHTS (known checkpoints) and RULES (by
source, a table of rules or a function from the config to one). It may have
- PRESETS: by source or table, the fields of its Config that its models compute with: a mapping, or a function from the
  config and the file's tensors to one;
- MARKS: by table, a pattern of tensor names by which its files are recognised where several tables fit;
- PUBLISHED: ImageNet accuracies and who measured them.

A module that has PREFIX too is of a library: its backbones are named PREFIX and the library's own name. Its VARIANTS
and WEIGHTS make their values when asked for; `has` says whether a name without PREFIX is the library's, as far as it is
installed, and `unknown` is the error of a name with it.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from vertebra.backbones.base import Backbone
from vertebra.backbones.fitting import Fit, fit_model
from vertebra.errors import VertebraError, check_fields, in_range, nearest, shown
from vertebra.nn.meta import build_on_meta, build_to_fill, on_meta
from vertebra.options import as_tuples, check_types
from vertebra.structures import MAX_SIDE
from vertebra.weights import Checkpoint, Weights, open_checkpoint, torchvision

__all__ = [
    "Backbone",
    "Fit",
    "create",
    "families",
    "family",
    "fit",
    "fit_state",
    "identify",
    "names",
    "public_name",
    "published",
    "takes_any_size",
]


def _modules() -> dict[str, ModuleType]:
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return {module.__name__.rpartition(".")[2]: module for module in modules if hasattr(module, "VARIANTS")}


@cache
def families() -> dict[str, ModuleType]:
    """Every family by the name of its file."""
    return {name: module for name, module in _modules().items() if not hasattr(module, "PREFIX")}


@cache
def _libraries() -> list[ModuleType]:
    return [module for module in _modules().values() if hasattr(module, "PREFIX")]


def library(name: str) -> ModuleType | None:
    """The module of the library whose PREFIX `name` has; None if it is of no library."""
    return next((module for module in _libraries() if name.startswith(module.PREFIX)), None)


def names() -> list[str]:
    """Every public backbone name, family by family."""
    return [name for module in families().values() for name in module.VARIANTS]


def public_name(name: str) -> str:
    """`name` itself if it is public, or the public name that timm's or torchvision's `name` stands for.

    Raises:
        VertebraError: if there is none; the message has the nearest public name.
    """
    if (foreign := library(name)) is not None:
        if name in foreign.VARIANTS:
            return name
        raise foreign.unknown(name)
    for module in families().values():
        if name in module.VARIANTS:
            return name
        if name in module.ALIASES:
            return str(module.ALIASES[name])
    hint = nearest(name, names())
    for module in _libraries():
        if module.has(name):
            hint = f" {module.PREFIX}{name} is the model of that name in {module.PREFIX.rstrip(':')}."
    raise VertebraError(f"no backbone is named {shown(name)}; `vertebra models` lists them.{hint}")


def family(name: str) -> ModuleType:
    """The module of the family that backbone `name` belongs to; raises as `public_name`."""
    public = public_name(name)
    return library(public) or next(module for module in families().values() if public in module.VARIANTS)


def published(where: object = "", backbone: str = "") -> Mapping[str, Weights]:
    """Published checkpoints by name: of all families or, if `where` or `backbone` has the PREFIX of a library, its."""
    if (foreign := library(str(where)) or library(backbone)) is not None:
        return foreign.WEIGHTS
    rows: dict[str, Weights] = {}
    for module in families().values():
        rows |= {key: dataclasses.replace(card, backbone=key.partition(".")[0]) for key, card in module.WEIGHTS.items()}
        for name in (*module.VARIANTS, *module.ALIASES) if "torchvision" in module.RULES else ():
            if torchvision.is_model(name):
                rows |= torchvision.cards(name, module.ALIASES.get(name, name))
    return rows


def takes_any_size(name: str) -> bool:
    """Whether backbone `name` takes images of other sizes than the one it was built for; raises as `public_name`."""
    if library(name) is not None:
        return _on_meta(name, {}).any_size
    return bool(family(name).MODEL.any_size)


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


def identify(state: Mapping[str, Tensor], source: str, **overrides: Any) -> str | None:
    """The first public name of a backbone that has exactly these tensors, for any number of input channels.

    Args:
        state: tensors by name, those of the backbone alone.
        source: whose names they are, or a table of it.
        overrides: fields of the family's Config, left out in families that have no such.

    Returns:
        The name; None if there is no such backbone.
    """
    for module in families().values():
        if source not in module.RULES:
            continue
        depths: tuple[int, ...] = ()
        for name, config in module.VARIANTS.items():
            if depths and depths != getattr(config, "depths", depths)[: len(depths)]:
                continue  # building it takes a tenth of a second
            fields = {field.name for field in dataclasses.fields(config)}
            given = {key: value for key, value in overrides.items() if key in fields}
            model = _on_meta(name, given)
            try:
                fitted = fit_model(model, state, source, name)
                tensors = fitted.state
                if fitted.options and not tensors.keys() <= model.state_dict().keys():
                    model = _on_meta(name, {**given, **fitted.options})  # its options may add layers
            except VertebraError:
                continue
            if model.first_conv not in tensors:
                break  # another family's
            depths = _depths(tensors)
            shapes = _shapes(tensors, model.first_conv)
            if shapes == _shapes(model.state_dict(), model.first_conv):
                return name
            if model.finest_only and shapes.keys() < model.state_dict().keys():
                model = _on_meta(name, {**given, **model.finest_only})
                if shapes == _shapes(model.state_dict(), model.first_conv):
                    return name
    return None


def _shapes(state: Mapping[str, Tensor], first_conv: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a backbone's tensors, but for the number of input channels."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if not _counts(name)}
    outputs, _, *kernel = shapes[first_conv]
    return shapes | {first_conv: (outputs, *kernel)}


def _depths(names: Iterable[str]) -> tuple[int, ...]:
    """Blocks of each stage, where tensors are called `stages.STAGE.BLOCK`; else nothing."""
    blocks = {(int(m[1]), int(m[2])) for name in names if (m := re.match(r"stages\.(\d+)\.(\d+)\.[a-z]", name))}
    counts = Counter(stage for stage, _ in blocks)
    return tuple(counts[stage] for stage in range(len(counts)))


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")


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
    opened = open_checkpoint(weights, published(weights, public_name(name)), source)
    fitted = fit(name, opened, source=source, **overrides)
    options = {**fitted.options, **overrides}
    empty = build_on_meta(lambda: _build(name, options), opened.state, opened.path)
    new = empty.fill(fitted.state, copy.deepcopy(fitted.report)).new
    model = build_to_fill(lambda: _build(name, options), empty, new)
    model.fill(fitted.state, fitted.report)
    return model


def _build(name: str, options: Mapping[str, Any]) -> Backbone:
    module = family(name)
    config = module.VARIANTS[public_name(name)]
    check_fields(name, options, {field.name for field in dataclasses.fields(config)})
    plain = {key: as_tuples(value) for key, value in options.items()}  # as they come from JSON
    check_types(type(config), plain)
    config = dataclasses.replace(config, **plain)
    in_range("channels", config.channels, 1)
    in_range("drop_path", config.drop_path, 0, 1)
    for side in config.image_size:
        in_range("image_size", side, 1, MAX_SIDE)
    model: Backbone = module.MODEL(config)
    return model


def _on_meta(name: str, options: Mapping[str, Any]) -> Backbone:
    return on_meta(lambda: _build(name, options))
