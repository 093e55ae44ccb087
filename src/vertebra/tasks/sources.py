"""Checkpoints of whole models of other libraries: recognition, names, and the options that they compute with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vertebra import weights
from vertebra.weights import Rename, Rules


@dataclass(frozen=True)
class Tensors:
    """The tensors of a file: those of the backbone under the library's names, all others under ours."""

    library: str
    backbone_state: Mapping[str, Tensor]
    head_state: Mapping[str, Tensor]
    file_names: frozenset[str]
    """All names in the file."""

    def has(self, *prefixes: str) -> bool:
        """Whether a tensor of the head has one of these prefixes."""
        return any(name.startswith(prefixes) for name in self.head_state)

    def count(self, pattern: str) -> int:
        """Number of tensors of the head whose whole name matches."""
        return sum(re.fullmatch(pattern, name) is not None for name in self.head_state)

    def width(self, *names: str) -> int | None:
        """Length of the first of these tensors that exists."""
        return next((len(self.head_state[name]) for name in names if name in self.head_state), None)

    def norm(self, *prefixes: str) -> str:
        """Kind of norm among the tensors of the head with these prefixes: `none`, `batch` or `group`."""
        return norm_kind(name for name in self.head_state if name.startswith(prefixes))


def norm_kind(names: Iterable[str]) -> str:
    """Kind of norm among tensors of these names: `none`, `batch` or `group`."""
    names = list(names)
    if not any(name.endswith(".norm.weight") for name in names):
        return "none"
    return "batch" if any(name.endswith(".norm.running_mean") for name in names) else "group"


def _nothing(tensors: Tensors) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Source:
    """How a library's checkpoints of one method are read."""

    marks: tuple[str, ...]
    """Regular expressions; a file is of this method if every one is found in some tensor's name ..."""
    without: tuple[str, ...] = ()
    """... and none of these in any."""
    backbone: tuple[str, ...] = ("backbone.",)
    """Prefixes of the backbone's tensors, of which the first that occurs is the file's."""
    backbone_rules: Rules = ()
    """Applied to the backbone's tensors, without that prefix, before the backbone's table."""
    rules: Rules | Callable[[Iterable[str]], Rules] = ()
    """From the names of all other tensors to ours; or a function of the names in the file."""
    stage: Rename | None = None
    """Where the last stage of the backbone stands, if apart, and where the backbone's table expects it."""
    finish: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    """Applied to the renamed tensors together."""
    preset: Mapping[str, Any] = field(default_factory=dict)
    """Options with which the library computes, by dotted path."""
    options: Callable[[Tensors], dict[str, Any]] = _nothing
    """Options that are read off the tensors; None is left out."""
    num_classes: Callable[[Tensors], int | None] = lambda _: None
    """Number of classes, read off the tensors."""
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    """Fields of Preprocess in which the library differs."""
    table: Callable[[Mapping[str, Tensor]], str | None] = lambda _: None
    """The backbone's rule table where the library has several, such as `detectron2/rgb`."""

    def recognises(self, names: Iterable[str]) -> bool:
        """Whether a file with tensors of these names is of this method."""
        text = "\n".join(names)
        return all(re.search(mark, text, re.MULTILINE) for mark in self.marks) and not any(
            re.search(mark, text, re.MULTILINE) for mark in self.without
        )


@dataclass(frozen=True)
class ModelFile:
    """The tensors of a file of another library's model, and the options that it computes with."""

    source: str
    """The library, or a table of it."""
    backbone_state: dict[str, Tensor]
    """The backbone's tensors, under the library's names."""
    head_state: dict[str, Tensor]
    """All others, under ours."""
    left_out: dict[str, str]
    """Names in the file that are not used, and why."""
    preset: dict[str, Any]
    """Options of the library."""
    shapes: dict[str, Any]
    """Options read off the tensors."""
    num_classes: int | None
    preprocess: Mapping[str, Any]


def read_model(library: str, source: Source, state: Mapping[str, Tensor], table: str | None = None) -> ModelFile:
    """The parts of a file that `source` has recognised; `table` is the user's choice of the library's table."""
    names = {name: name for name in state}
    if source.stage is not None:
        names = {name: re.sub(source.stage.pattern, source.stage.to, name) for name in state}
    prefix = next((p for p in source.backbone if any(name.startswith(p) for name in names.values())), "backbone.")
    backbone_state = {new.removeprefix(prefix): state[old] for old, new in names.items() if new.startswith(prefix)}
    backbone_state, unused = weights.convert(backbone_state, source.backbone_rules)
    others = {old: state[old] for old, new in names.items() if not new.startswith(prefix)}
    rules = source.rules(others) if callable(source.rules) else source.rules
    head_state, left_out = weights.convert(others, rules)
    head_state = source.finish(head_state)
    tensors = Tensors(library, backbone_state, head_state, frozenset(state))
    shapes = {key: value for key, value in source.options(tensors).items() if value is not None}
    return ModelFile(
        table or source.table(state) or library,
        backbone_state,
        head_state,
        unused | left_out,
        dict(source.preset),
        shapes,
        source.num_classes(tensors),
        source.preprocess,
    )
