"""Our models, filled with the weights of a reference, and what they answer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vertebra import backbones, tasks, weights
from vertebra.ledger import detectors
from vertebra.ledger.fabricate import fabricate_state, fabricated_input
from vertebra.ledger.reference import Comparison, Reference, judged
from vertebra.tasks.classification.task import Classification, MeanHead


def compare(reference: Reference, rtol: float = 1e-4, atol: float = 1e-4) -> Comparison:
    """Fills our model through the rules, computes, and compares as `judged` says."""
    if reference.detects:
        return judged(reference, *detectors.outputs(reference), rtol=rtol, atol=atol)
    spec = reference.spec
    state = fabricate_state(spec["state"], spec["gain"], spec["norm"])
    model: nn.Module
    if reference.classifies:
        model = tasks.create("classification", backbone=reference.name, classes=1000).eval()
        backbone = model.backbone
    else:
        model = backbone = backbones.create(reference.name, level_norms=True).eval()
    report = weights.Report(str(reference.path), reference.source)
    converted, report.left_out, report.source = backbone.convert(state, reference.source)
    if reference.classifies:
        converted = {k if k.startswith("head.") else f"backbone.{k}": t for k, t in converted.items()}
    weights.load(model, converted, report)
    backbone.settle(report)
    images = fabricated_input(spec["input"]["shape"], spec["input"]["seed"])
    found = _outputs(reference, model, backbone, images)
    rows = spec["outputs"]
    found = {key: _laid_out(tensor, rows[key]["shape"]) for key, tensor in found.items() if key in rows}
    return judged(reference, found, rtol=rtol, atol=atol)


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
