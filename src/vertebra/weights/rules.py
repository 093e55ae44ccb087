"""Rule tables: every tensor of a foreign checkpoint is renamed, fixed or dropped by name, and nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vertebra.errors import VertebraError, nearest, shown


@dataclass(frozen=True)
class Rename:
    """Replaces `pattern` (a regular expression, searched) in every name by `to` (a template, or a function)."""

    pattern: str
    to: str | Callable[[re.Match[str]], str]


@dataclass(frozen=True)
class Fix:
    """Passes the tensors whose name matches `pattern` through `function`; `why` says what it changes."""

    pattern: str
    function: Callable[[Tensor], Tensor]
    why: str


@dataclass(frozen=True)
class Drop:
    """Leaves out the tensors whose name matches `pattern`, because of `why`."""

    pattern: str
    why: str


@dataclass(frozen=True)
class Join:
    """Concatenates, along dimension `dim` and in the order of `parts`, the tensors whose names differ only in which of
    them stands where `pattern`'s group is; `to` takes its place."""

    pattern: str
    parts: tuple[str, ...]
    to: str
    dim: int = 0


_OFFSETS = (".offset.weight", ".offset.bias")
"""Last parts of the names of what predicts the offsets of a deformable convolution, zero at first: with these it takes
the weights of a plain one."""

Rule = Rename | Fix | Drop | Join
Rules = Sequence[Rule]


@dataclass
class Report:
    """How a checkpoint was used: print it, or read its lists."""

    path: str
    source: str
    used: list[str] = field(default_factory=list)
    """Names in the model that were filled from the checkpoint."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Names in the checkpoint that were not used, and why."""
    new: list[str] = field(default_factory=list)
    """Names in the model that keep their initial values."""
    adapted: dict[str, str] = field(default_factory=dict)
    """Options and tensors that were adapted, by name, and how."""

    def __str__(self) -> str:
        lines = [f"{len(self.used)} tensors used from {self.path} ({self.source} names)"]
        lines += [f"  left out {name}: {why}" for name, why in self.left_out.items()]
        lines += [f"  adapted {name}: {how}" for name, how in self.adapted.items()]
        lines += [f"  newly initialised {name}" for name in self.new]
        return "\n".join(lines)


def convert(state: Mapping[str, Tensor], rules: Rules) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Applies `rules` in order to every name.

    Returns:
        The tensors under their new names, and the old names of those dropped with the reason.

    Raises:
        VertebraError: if two tensors end up under one name, or one of those to be joined is missing.
    """
    converted: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    dropped: dict[str, str] = {}
    joins: dict[str, tuple[Join, dict[str, Tensor]]] = {}
    patterns = [(rule, re.compile(rule.pattern)) for rule in rules]
    for old, tensor in state.items():
        name, part, join = old, "", None
        for rule, pattern in patterns:
            if isinstance(rule, Rename):
                name = pattern.sub(rule.to, name)
            elif isinstance(rule, Join):
                if match := pattern.search(name):
                    part, join = match[1], rule
                    name = name[: match.start(1)] + rule.to + name[match.end(1) :]
            elif pattern.search(name):
                if isinstance(rule, Drop):
                    dropped[old] = rule.why
                    break
                try:
                    tensor = rule.function(tensor)
                except (IndexError, RuntimeError) as error:
                    raise VertebraError(
                        f"{old} of the checkpoint has the shape {list(tensor.shape)}, which does not fit ({rule.why})."
                    ) from error
        else:
            if join is not None:
                joins.setdefault(name, (join, {}))[1][part] = tensor
                continue
            if name in converted:
                raise VertebraError(f"both {origin[name]} and {old} of the checkpoint are named {name} here.")
            converted[name], origin[name] = tensor, old
    for name, (join, parts) in joins.items():
        if missing := [part for part in join.parts if part not in parts]:
            raise VertebraError(f"{name} is joined from {', '.join(join.parts)}; the checkpoint lacks {missing[0]}.")
        try:
            converted[name] = torch.cat([parts[part] for part in join.parts], join.dim)
        except (IndexError, RuntimeError) as error:
            shapes = " and ".join(str(list(parts[part].shape)) for part in join.parts)
            raise VertebraError(f"{name} is joined from tensors of the shapes {shapes}, which do not fit.") from error
    return converted, dropped


def choose(
    state: Mapping[str, Tensor], tables: Mapping[str, Rules], source: str | None, expected: Mapping[str, Tensor]
) -> str:
    """The name of the table to use: of those of `source`, or of all, the one under which most names and shapes fit.

    A source that has changed its names has several tables, called `source` and `source/...`, which can be named too.
    """
    if source is not None and "/" in source and source in tables:
        return source
    if source is not None:
        if source not in {name.partition("/")[0] for name in tables}:
            raise VertebraError(
                f"no rules for source {shown(source)} here; there are {', '.join(sorted(tables))}."
                f"{nearest(source, tables)}"
            )
        tables = {name: table for name, table in tables.items() if name.partition("/")[0] == source}

    def fitting(rules: Rules) -> int:
        try:
            converted, _ = convert(state, rules)
        except VertebraError:
            return -1
        return sum(name in expected and expected[name].shape == tensor.shape for name, tensor in converted.items())

    return max(tables, key=lambda name: fitting(tables[name]))


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """A first convolution for another number of input channels: [C', C, k, k] -> [C', channels, k, k].

    To one channel the kernels are summed, so a grey image gives what its RGB copy would; to more they are
    repeated in turn and scaled so that the response to a constant image stays the same.
    """
    inputs = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeats = -(-channels // inputs)
    repeated = weight.repeat(1, repeats, 1, 1)[:, :channels]
    return repeated * (inputs / channels)


def load(
    module: nn.Module,
    state: Mapping[str, Tensor],
    report: Report,
    *,
    adapt: Callable[[str, Tensor, torch.Size], tuple[Tensor, str] | None] = lambda *_: None,
    unwanted: Mapping[str, str] | None = None,
    partial: bool = False,
    fresh: tuple[str, ...] = ("head.",),
) -> Report:
    """Fills `module` from `state`, strictly.

    Args:
        module: on any device; on `meta`, that its tensors fit is checked, and nothing else.
        state: tensors under the module's own names.
        report: filled and returned.
        adapt: given the name, tensor and wanted shape of what is misshaped, the tensor made to fit and how, or None.
        unwanted: prefixes of names that the module does not use, and why; they are listed in the report.
        partial: whether what is missing, unused or misshaped is listed instead of being an error; nine tenths of
            the tensors that are not `fresh` must fit all the same, or the checkpoint is of another architecture.
        fresh: prefixes of names that may be newly initialised with `partial`.

    Raises:
        VertebraError: naming every tensor that is missing, unused or misshaped, unless `partial`.
    """
    expected = module.state_dict()
    # Paddle and PyTorch before 0.4.1 lack this counter, which nothing but a cumulative average reads.
    optional: tuple[str, ...] = ("num_batches_tracked",)
    if not any(name.endswith(_OFFSETS) for name in state):
        optional += _OFFSETS
    problems: list[str] = []
    fitting: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in expected:
            want = expected[name].shape
            if tensor.shape != want and (adapted := adapt(name, tensor, want)) is not None:
                tensor, report.adapted[name] = adapted
            if tensor.shape == want:
                fitting[name] = tensor
                continue
            why = f"its shape is {list(tensor.shape)}, the model's {list(want)}"
        else:
            why = next((why for prefix, why in (unwanted or {}).items() if name.startswith(prefix)), "")
            if why:
                report.left_out[name] = why
                continue
            why = "the model has no such tensor"
        report.left_out[name] = why
        problems.append(f"{name}: {why}")
    for name in expected:
        if name not in fitting:
            report.new.append(name)
            if not name.endswith(optional) and name not in report.left_out:
                problems.append(f"{name}: missing from the checkpoint")
    if problems and not partial:
        shown = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
        raise VertebraError(
            f"{report.path} does not fit this model ({report.source} names): {shown}. "
            "Pass partial=True to load what fits and have the rest listed."
        )
    body = [name for name in expected if not name.startswith(fresh) and not name.endswith(optional)]
    count = sum(name in fitting for name in body)
    if count < 0.9 * len(body):
        raise VertebraError(
            f"{report.path} is of another architecture: it has only {count} of the {len(body)} tensors that this "
            f"model needs besides its head ({report.source} names)."
        )
    if not any(tensor.is_meta for tensor in expected.values()):
        filled = {name: _finite(tensor, expected[name], name, report) for name, tensor in fitting.items()}
        with torch.no_grad():
            for name, tensor in filled.items():
                expected[name].copy_(tensor)
    report.used = list(fitting)
    return report


def _finite(tensor: Tensor, expected: Tensor, name: str, report: Report) -> Tensor:
    """`tensor` in the type of `expected`; raises if it is not a finite number where that is one of real numbers."""
    if not expected.is_floating_point():
        return tensor.to(expected.dtype)
    if not tensor.is_floating_point():
        raise VertebraError(f"{report.path}: {name} is of {tensor.dtype}, the model's of {expected.dtype}.")
    converted = tensor.to(expected.dtype)
    # Both ends are NaN if one of the values is; this is many times faster than isfinite.
    if converted.numel() and not all(end.isfinite() for end in converted.aminmax()):
        raise VertebraError(
            f"{report.path}: {name} has values that are NaN or infinite: the training that wrote it has diverged, or "
            "the file is damaged."
        )
    return converted
