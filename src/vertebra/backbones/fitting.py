"""What a checkpoint needs of a backbone: the options that it computes with, and its tensors under our own names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vertebra import weights
from vertebra.options import as_tuples, names

if TYPE_CHECKING:
    from vertebra.backbones.base import Backbone


@dataclass(frozen=True)
class Fit:
    """A checkpoint, prepared for a backbone."""

    options: dict[str, Any]
    """Fields of the family's Config with which the checkpoint's model computes, without those that the user set."""
    state: dict[str, Tensor]
    """Tensors by the backbone's own names; those of a classifier are under `head.`."""
    report: weights.Report
    """Lists the tensors that were dropped, and the options; filled further by loading."""


def fit_model(
    model: Backbone,
    state: Mapping[str, Tensor],
    source: str | None,
    path: str | Path,
    about: Mapping[str, Any] | None = None,
    overrides: Collection[str] = (),
) -> Fit:
    """Fits a checkpoint to a backbone.

    Args:
        model: on any device; only its config and the names and shapes of its tensors are read.
        state: tensors by their names in the file.
        source: whose names these are (a key of the family's RULES); detected if None.
        path: the file, for messages.
        about: Vertebra's own description of the model, if it wrote the file.
        overrides: options that the user set; the checkpoint does not change these.

    Raises:
        VertebraError: if the family has no rules for `source`, or two tensors get one name.
    """
    if about is not None:
        tensors = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
        options = _described(model, about)
        report, origin = weights.Report(str(path), "vertebra"), "as the checkpoint's own description has it"
    else:
        state, tables = model.prepare(state), model.tables()
        table = weights.rules.choose(state, tables, _marked(model, state, source), model.state_dict())
        tensors, dropped = weights.convert(state, tables[table])
        options = _preset(model, table, state)
        report = weights.Report(str(path), table, left_out=dropped)
        origin = f"as {table.partition('/')[0]} computes it"
        for rule in tables[table]:
            # The input of the model changes, which its user has to know.
            if isinstance(rule, weights.Fix) and re.search(rule.pattern, model.first_conv):
                report.adapted[model.first_conv] = rule.why
    options = {name: value for name, value in options.items() if name not in overrides}
    for name, value in options.items():
        if getattr(model.config, name, None) != value:
            report.adapted[name] = f"{value}, {origin}"
    return Fit(options, tensors, report)


def _described(model: Backbone, about: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone options of a checkpoint of ours, if it is of the same family."""
    described = about["model"]
    aliases, variants = model.family.ALIASES, model.family.VARIANTS
    name = described.get("backbone")
    if aliases.get(name, name) not in variants:
        return {}
    lasting = names(type(model.config), training=False)
    return {key: as_tuples(value) for key, value in described.get("backbone_options", {}).items() if key in lasting}


def _marked(model: Backbone, state: Mapping[str, Tensor], source: str | None) -> str | None:
    """The table of `source`, or of all, whose mark is among the names; `source` if there is none."""
    for table, mark in getattr(model.family, "MARKS", {}).items():
        if (source is None or f"{table}/".startswith(f"{source}/")) and any(re.search(mark, name) for name in state):
            return str(table)
    return source


def _preset(model: Backbone, table: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options with which models of a table compute; those of its source where it has none of its own."""
    presets = getattr(model.family, "PRESETS", {})
    preset = presets.get(table, presets.get(table.partition("/")[0], {}))
    return dict(preset(model.config, state) if callable(preset) else preset)
