"""Weights made from names, and the comparison of a model's answers with a reference's."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vertebra import backbones, tasks, weights
from vertebra.errors import VertebraError

_GAINS = ("gamma", "alpha", "ls1", "ls2", "layer_scale", "lambda")
_DERIVED = ("offset", "attn_mask", "relative_position_index", "relative_coords_table", "position_ids")


def fabricate(name: str, shape: Sequence[int], gain: float = 1.0, norm: float = 1.0) -> Tensor:
    """A float32 tensor that depends on its name and shape alone, scaled so that signals neither die nor explode.

    Args:
        gain: factor on weights of two or more dimensions, whose deviation is otherwise 1 / sqrt(fan in).
        norm: factor on weights of one dimension, and its square on running variances: a small one makes the eps
            of batch norm visible.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape))
    last = name.rpartition(".")[2]
    if last == "running_var":
        value = norm**2 * (1 + 0.2 * np.abs(noise))
    elif last.startswith(_GAINS):
        value = 0.5 + 0.1 * noise
    elif (last.endswith("weight") or last == "scale") and len(shape) >= 2:
        value = noise * gain * math.sqrt(1 / max(1, math.prod(shape[1:])))
    elif (last.endswith("weight") and len(shape) == 1) or last == "scale":
        value = norm * (1 + 0.1 * noise)
    else:
        value = 0.1 * noise
    return torch.from_numpy(np.asarray(value, dtype=np.float32).reshape(tuple(shape)))


def fabricate_state(rows: Sequence[Sequence[Any]], gain: Any = 1.0, norm: float = 1.0) -> dict[str, Tensor]:
    """A whole state from rows (name, shape[, dtype[, derived]]); derived buffers are left out.

    `gain` may be {prefix of the name: factor}; the longest prefix that fits counts.
    """
    state: dict[str, Tensor] = {}
    for name, shape, *rest in rows:
        last = name.rpartition(".")[2]
        if last == "num_batches_tracked":
            state[name] = torch.zeros(shape, dtype=torch.int64)
        elif last not in _DERIVED and not (len(rest) > 1 and rest[1]):
            factor = gain[max((p for p in gain if name.startswith(p)), key=len)] if isinstance(gain, dict) else gain
            state[name] = fabricate(name, shape, factor, norm)
    return state


def fabricated_input(shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal noise."""
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape))
    return torch.from_numpy(noise.astype(np.float32))


@dataclass(frozen=True)
class Reference:
    """Outputs of an original implementation."""

    path: Path
    name: str
    """Our public name of the backbone."""
    source: str
    """Whose names the tensors bear."""
    spec: Mapping[str, Any] = field(repr=False)


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


def references(folder: Path) -> Iterator[Reference]:
    """The references of classifiers in `folder` whose backbone we have."""
    if not folder.is_dir():
        raise VertebraError(f"{folder} is not a folder of reference files.")
    for path in sorted(folder.glob("*.json")):
        if not path.with_suffix(".npz").is_file():
            continue  # facts.json
        spec = json.loads(path.read_text())
        match = re.match(r"(timm|tv|wzm)_(.+?)(_eps)?$", spec["id"])
        if match and "logits" in spec["outputs"]:
            try:
                name = backbones.public_name(match[2])
            except VertebraError:
                continue
            yield Reference(path, name, {"tv": "torchvision", "wzm": "official"}.get(match[1], match[1]), spec)


def compare(reference: Reference, rtol: float = 1e-4, atol: float = 1e-4) -> Comparison:
    """Fills our model through the rules, computes, and compares.

    An element agrees when |ours - theirs| <= rtol * |theirs| + atol * (deviation of the whole output).
    """
    spec = reference.spec
    task = tasks.create("classification", backbone=reference.name, classes=1000).eval()
    state = fabricate_state(spec["state"], spec["gain"], spec["norm"])
    table = task.backbone.tables()[reference.source]
    converted, dropped = weights.convert(state, table)
    own = {name if name.startswith("head.") else f"backbone.{name}": t for name, t in converted.items()}
    weights.load(task, own, weights.Report(str(reference.path), reference.source, left_out=dropped))
    outputs = _outputs(task, table, fabricated_input(spec["input"]["shape"], spec["input"]["seed"]), spec["outputs"])
    arrays = np.load(reference.path.with_suffix(".npz"), allow_pickle=False)
    largest, compared, problems = 0.0, [], []
    for key, row in spec["outputs"].items():
        if key not in outputs:
            problems.append(f"{key}: no output of ours stands for it")
            continue
        ours, theirs = outputs[key], torch.from_numpy(arrays[row["array"]]).reshape(-1).double()
        if list(ours.shape) != row["shape"]:
            problems.append(f"{key}: shape {list(ours.shape)}, expected {row['shape']}")
            continue
        compared.append(key)
        apart = (ours.reshape(-1)[:: row["step"]].double() - theirs).abs()
        largest = max(largest, float(apart.max()) / row["std"])
        if not bool((apart <= row.get("rtol", rtol) * theirs.abs() + atol * row["std"] + 1e-7).all()):
            problems.append(f"{key}: largest difference {float(apart.max()):.2e} at a deviation of {row['std']:.2e}")
    return Comparison(reference, largest, compared, problems)


def _outputs(task: tasks.Task, table: weights.Rules, images: Tensor, wanted: Mapping[str, Any]) -> dict[str, Tensor]:
    """Our tensors under the reference's keys: `logits`, `featureN` and `layerN` by place in the pyramid, and names of
    the original's modules, which the rules translate."""
    found: dict[str, Tensor] = {}
    modules = dict(task.backbone.named_modules())
    hooks = []
    for key in wanted:
        renamed, _ = weights.convert({f"{key}.": images}, [rule for rule in table if isinstance(rule, weights.Rename)])
        ours = next(iter(renamed)).rstrip(".")
        stage = re.fullmatch(r"features\.(\d)", key)  # torchvision's stages; ours are lists of blocks
        if stage and f"stages.{int(stage[1]) - 1}" in modules:
            blocks = modules[f"stages.{int(stage[1]) - 1}"]
            assert isinstance(blocks, nn.ModuleList)
            target: nn.Module | None = blocks[len(blocks) - 1]
        else:
            target = modules.get(ours)
        if target is not None:

            def keep(_: nn.Module, __: Any, output: Tensor, key: str = key) -> None:
                found[key] = output.detach().clone()

            hooks.append(target.register_forward_hook(keep))
    with torch.no_grad():
        found["logits"] = task(images)
        for hook in hooks:
            hook.remove()
        maps = task.backbone(images)
    for i, feature in enumerate(maps):
        found.setdefault(f"feature{i}", feature)
        found.setdefault(f"layer{i}", feature)  # the stem is the first map, layer1 the second
    return found
