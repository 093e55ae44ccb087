"""Our backbones and classifiers, filled with a reference's weights, and their outputs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vertebra import backbones, tasks, weights
from vertebra.ledger.fabricate import fabricate_state, fabricated_input
from vertebra.ledger.reference import Comparison, Reference, compare_outputs
from vertebra.tasks.classification.linear import LinearClassifier, MeanHead


def compare(reference: Reference, rtol: float = 1e-4, atol: float = 1e-4) -> Comparison:
    """Fills our model through the family's rules, runs it, and compares as `compare_outputs` does."""
    spec = reference.spec
    state = fabricate_state(spec["state"], spec["gain"], spec["norm"])
    options: dict[str, Any] = {"embedding": True} if reference.classifies else {"level_norms": True}
    fit = backbones.fit_state(reference.name, state, source=reference.source, path=reference.path, **options)
    model: nn.Module
    if reference.classifies:
        model = tasks.create("classification", backbone=reference.name, backbone_options=fit.options, classes=1000)
        assert isinstance(model, LinearClassifier)
        backbone = model.backbone
        converted = {k if k.startswith("head.") else f"backbone.{k}": t for k, t in fit.state.items()}
    else:
        model = backbone = backbones.create(reference.name, **{**fit.options, **options})
        converted = fit.state
    weights.load(model, converted, fit.report)
    images = fabricated_input(spec["input"]["shape"], spec["input"]["seed"])
    outputs = _outputs(reference, model.eval(), backbone, images)
    rows = spec["outputs"]
    laid_out = {key: _to_layout(tensor, rows[key]["shape"]) for key, tensor in outputs.items() if key in rows}
    return compare_outputs(reference, laid_out, rtol=rtol, atol=atol)


# By family, from the originals' names of outputs inside the network to our modules that return them: a pattern of the
# whole name, and its replacement. A list of blocks stands for its last one.
_MODULES: dict[str, tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]] = {
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
        # The official stages end with the patch merging that ours begin with.
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


def _module_name(key: str, family: str, renames: Sequence[weights.Rename]) -> str:
    """Our module of an output, by the family's table, else renamed as its tensors are."""
    for pattern, to in _MODULES.get(family, ()):
        if re.fullmatch(pattern, key):
            return re.sub(pattern, to, key)
    (name,) = weights.convert({f"{key}.": torch.empty(0)}, renames)[0]
    return name.rstrip(".")


def _outputs(reference: Reference, model: nn.Module, backbone: backbones.Backbone, images: Tensor) -> dict[str, Tensor]:
    """Our tensors under the reference's keys, from one forward pass: `logits`, `featureN` by position in the pyramid,
    and outputs of modules."""
    outputs: dict[str, Tensor] = {}
    modules = dict(backbone.named_modules())
    family = backbone.family.__name__.rpartition(".")[2]
    renames = [rule for rule in backbone.tables()[reference.source] if isinstance(rule, weights.Rename)]
    names = {key: _module_name(key, family, renames) for key in reference.spec["outputs"]}
    hooks = []
    for key, place in names.items():
        if len(backbone.levels) == 1 and place.startswith("feature"):
            last = len(modules["blocks"]) - 1
            place = f"blocks.{last - 2 + int(place.removeprefix('feature'))}"  # timm returns the last three blocks
        name, _, item = place.rstrip("]").partition("[")
        module = modules.get(name)
        if module is None or place == "norm":
            continue

        def keep(_: nn.Module, __: Any, output: Any, key: str = key, item: str = item) -> None:
            outputs[key] = (output[int(item)] if item else output).detach().clone()

        end = module[-1] if isinstance(module, nn.ModuleList | nn.Sequential) else module
        hooks.append(end.register_forward_hook(keep))
    maps: list[Tensor] = []
    with torch.no_grad():
        x = backbone.forward_features(images, maps.append)
        embedding = backbone.pool(x) if reference.classifies else None
        for hook in hooks:
            hook.remove()
        for key in (key for key, place in names.items() if place == "norm"):  # ours norms what it needs alone
            outputs[key] = modules["norm"](x)
        for i, feature in enumerate(maps):
            outputs.setdefault(f"feature{i}", feature)
        if isinstance(model, LinearClassifier):
            assert embedding is not None
            outputs["logits"] = model.head(embedding)
            if isinstance(model.head, MeanHead):  # DeiT: the logits of the class token and of the distillation token
                first, second = model.head.logits(embedding).unbind(1)
                outputs |= {"logits_cls": first, "cls_logits": first}
                outputs |= {"logits_dist": second, "distillation_logits": second}
    return outputs


def _to_layout(ours: Tensor, shape: Sequence[int]) -> Tensor:
    """The same values in the original's layout: tokens [B, N, C], [B, H, W, C] or [B, C, H, W]."""
    if list(ours.shape) == list(shape) or ours.ndim < 3:
        return ours
    if ours.ndim == 3:  # to a map, without the tokens before the patches
        channels_last = ours.shape[2] == shape[3]
        grid = shape[1:3] if channels_last else shape[2:]
        cells = ours[:, -math.prod(grid) :].unflatten(1, tuple(grid))
        return cells if channels_last else cells.permute(0, 3, 1, 2)
    for order in ((0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 2, 3)):
        permuted = ours.permute(order)
        if list((permuted.flatten(1, 2) if len(shape) == 3 else permuted).shape) == list(shape):
            return permuted.reshape(tuple(shape))
    return ours
