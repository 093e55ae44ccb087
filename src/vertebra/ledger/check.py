"""Weights made from names, and the comparison of a model's answers with a reference's."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vertebra import backbones, tasks, weights
from vertebra.errors import VertebraError
from vertebra.tasks.classification.task import Classification, MeanHead

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

    @property
    def classifies(self) -> bool:
        """Whether it is of a whole classifier; else of a backbone with normalised maps."""
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


_SOURCES = {"timm": "timm", "tv": "torchvision", "hf": "transformers"}  # others are the official repositories
_NAME = re.compile(r"(?:(timm|tv|hf|wzm|ms|res2net_official|hrnet_cls)_)?(.+?)(?:_eps|_feat|_det_backbone|_a2_b4)?")


def references(folder: Path) -> Iterator[Reference]:
    """The references in `folder` of classifiers and backbones that we have."""
    if not folder.is_dir():
        raise VertebraError(f"{folder} is not a folder of reference files.")
    for path in sorted(folder.glob("*.json")):
        if not path.with_suffix(".npz").is_file():
            continue  # facts.json
        spec = json.loads(path.read_text())
        match = _NAME.fullmatch(spec["id"])
        maps = all(re.fullmatch(r"feature\d", key) for key in spec["outputs"])
        if match and (maps or "logits" in spec["outputs"]):
            try:
                name = backbones.public_name(("hrnet_" if match[1] == "hrnet_cls" else "") + match[2])
            except VertebraError:
                continue
            yield Reference(path, name, _SOURCES.get(match[1], "official"), spec)


def compare(reference: Reference, rtol: float = 1e-4, atol: float = 1e-4) -> Comparison:
    """Fills our model through the rules, computes, and compares.

    An element agrees when |ours - theirs| <= rtol * |theirs| + atol * (deviation of the whole output).
    """
    spec = reference.spec
    state = fabricate_state(spec["state"], spec["gain"], spec["norm"])
    model: nn.Module
    if reference.classifies:
        model = tasks.create("classification", backbone=reference.name, classes=1000).eval()
        backbone = model.backbone
    else:
        model = backbone = backbones.create(reference.name, level_norms=True).eval()
    report = weights.Report(str(reference.path), reference.source)
    converted, report.left_out = weights.convert(state, backbone.tables()[reference.source])
    if reference.classifies:
        converted = {k if k.startswith("head.") else f"backbone.{k}": t for k, t in converted.items()}
    weights.load(model, converted, report)
    backbone.settle(report)
    images = fabricated_input(spec["input"]["shape"], spec["input"]["seed"])
    outputs = _outputs(reference, model, backbone, images)
    arrays = np.load(reference.path.with_suffix(".npz"), allow_pickle=False)
    largest, compared, problems = 0.0, [], []
    for key, row in spec["outputs"].items():
        if key not in outputs:
            problems.append(f"{key}: no output of ours stands for it")
            continue
        ours, theirs = (
            _laid_out(outputs[key], row["shape"]),
            torch.from_numpy(arrays[row["array"]]).reshape(-1).double(),
        )
        if list(ours.shape) != row["shape"]:
            problems.append(f"{key}: shape {list(ours.shape)}, expected {row['shape']}")
            continue
        compared.append(key)
        apart = (ours.reshape(-1)[:: row["step"]].double() - theirs).abs()
        largest = max(largest, float(apart.max()) / row["std"])
        if not bool((apart <= row.get("rtol", rtol) * theirs.abs() + atol * row["std"] + 1e-7).all()):
            problems.append(f"{key}: largest difference {float(apart.max()):.2e} at a deviation of {row['std']:.2e}")
    return Comparison(reference, largest, compared, problems)


# What the originals call a place inside the network, as the module of ours that ends there: a pattern for the key, and
# its replacement. A list of blocks stands for its last.
_PLACES: dict[str, tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]] = {
    "resnet": ((r"layer(\d)", lambda m: f"stages.{int(m[1]) - 1}"),),
    "res2net": ((r"layer(\d)", lambda m: f"stages.{int(m[1]) - 1}"),),
    "biglittle": ((r"layer(\d)", lambda m: f"stages.{int(m[1]) - 1}"),),
    "dla": ((r"level(\d)", r"stages.\1"),),
    "efficientnetv2": ((r"features\.(\d)", lambda m: f"stages.{int(m[1]) - 1}"),),
    "cyclemlp": (
        (r"network\.([135])", lambda m: f"steps.{(int(m[1]) + 1) // 2}"),
        (r"network\.([0246])", lambda m: f"stages.{int(m[1]) // 2}"),
    ),
    "asmlp": ((r"patch_embed", "patch_norm"), (r"layers\.3", "stages.3"), (r"layers\.(\d)", r"merges.\1")),
    "hrnet": (
        (r"layer1", "stage1"),
        (r"stage(\d)\[(\d)\]", lambda m: f"stages.{int(m[1]) - 2}[{m[2]}]"),
        (r"final_layer", "final"),
        (r"feature0", "stem.0"),
        (r"feature(\d)", lambda m: f"increase.{int(m[1]) - 1}"),
    ),
    "swin": (
        (r"patch_embed|features\.0|reshaped_hidden_states\[0\]", "stem"),
        (r"features\.([1357])", lambda m: f"stages.{int(m[1]) // 2}"),
        # The official stages end with the merging that ours begin with.
        (r"layers\.(3)|reshaped_hidden_states\[4\]", "stages.3"),
        (r"layers\.(\d)", r"merges.\1"),
        (r"reshaped_hidden_states\[(\d)\]", lambda m: f"merges.{int(m[1]) - 1}"),
    ),
    "vit": (
        (r"patch_embed", "stem.patches"),
        (r"encoder\.layers\.encoder_layer_(\d+)", r"blocks.\1"),
        (r"hidden_states\[(\d+)\]", lambda m: f"blocks.{int(m[1]) - 1}"),
    ),
}


def _outputs(reference: Reference, model: nn.Module, backbone: backbones.Backbone, images: Tensor) -> dict[str, Tensor]:
    """Our tensors under the reference's keys: `logits`, `featureN` by place in the pyramid, and places inside."""
    found: dict[str, Tensor] = {}
    modules = dict(backbone.named_modules())
    family = backbones.family(reference.name).__name__.rpartition(".")[2]
    table = [rule for rule in backbone.tables()[reference.source] if isinstance(rule, weights.Rename)]
    hooks = []
    for key in reference.spec["outputs"]:
        place = key
        for pattern, to in _PLACES.get(family, ()):
            if re.fullmatch(pattern, place):
                place = re.sub(pattern, to, place)
                break
        else:
            place = next(iter(weights.convert({f"{key}.": images}, table)[0])).rstrip(".")
        if (match := re.fullmatch(r"feature(\d)", place)) and len(backbone.levels) == 1:
            place = f"blocks.{len(modules['blocks']) - 3 + int(match[1])}"  # timm gives the last three blocks
        name, _, item = place.rstrip("]").partition("[")
        target = modules.get(name)
        if place == "norm":  # ours norms only what it needs
            assert target is not None
            with torch.no_grad():
                found[key] = target(backbone.walk(images, lambda _: None))
        elif target is not None:

            def keep(_: nn.Module, __: Any, output: Any, key: str = key, item: str = item) -> None:
                found[key] = (output[int(item)] if item else output).detach().clone()

            hooks.append(
                (target[-1] if isinstance(target, nn.ModuleList | nn.Sequential) else target).register_forward_hook(
                    keep
                )
            )
    with torch.no_grad():
        if reference.classifies:
            found["logits"] = model(images)
        for hook in hooks:
            hook.remove()
        for i, feature in enumerate(backbone(images)):
            found.setdefault(f"feature{i}", feature)
        if backbone.parts == 2:  # DeiT: the class token's logits and the distillation token's
            assert isinstance(model, Classification)
            assert isinstance(model.head, MeanHead)
            first, second = model.head.each(backbone.embed(images)).unbind(1)
            found |= {"logits_cls": first, "cls_logits": first, "logits_dist": second, "distillation_logits": second}
    return found


def _laid_out(ours: Tensor, shape: Sequence[int]) -> Tensor:
    """The same numbers in the original's layout: tokens [B, N, C], [B, H, W, C] or [B, C, H, W]."""
    if list(ours.shape) == list(shape) or ours.ndim < 3:
        return ours
    if ours.ndim == 3:  # to a map, without the tokens before the patches
        last = ours.shape[2] == shape[3]
        grid = shape[1:3] if last else shape[2:]
        cells = ours[:, -math.prod(grid) :].unflatten(1, tuple(grid))
        return cells if last else cells.permute(0, 3, 1, 2)
    for order in ((0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 2, 3)):
        turned = ours.permute(order)
        if list((turned.flatten(1, 2) if len(shape) == 3 else turned).shape) == list(shape):
            return turned.reshape(tuple(shape))
    return ours
