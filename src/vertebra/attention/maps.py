"""Attention weights of a model, computed only when requested."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.errors import VertebraError


def maps(model: nn.Module, images: Tensor, *, mean: bool = False) -> dict[str, Tensor]:
    """The attention weights of every attention inside `model`, in order, by the module's name.

    Of a mechanism inside another, as the one of the heads, the outer one alone is listed.

    Args:
        model: a backbone or a task's model; its mode and weights stay as they are.
        images: [B, C, H, W], normalised.
        mean: whether to return the mean over the heads, which takes less memory.

    Returns:
        [B, heads, queries, keys] each, rows summing to 1, or [B, queries, keys]. Of windows, B is their number.

    Raises:
        VertebraError: if the model has no attention.
    """
    result: dict[str, Tensor] = {}
    hooks, outer = [], None
    for name, module in model.named_modules():
        inside = outer is not None and name.startswith(f"{outer}.")
        if not inside and callable(getattr(module, "weights", None)):
            outer = name

            def record(module: nn.Module, arguments: Any, keywords: Any, name: str = name) -> None:
                weights: Any = module.weights
                given = signature(module.forward).bind(*arguments, **keywords).arguments
                values = weights(**{key: given[key] for key in signature(weights).parameters if key in given})
                result[name] = values.mean(1) if mean else values

            hooks.append(module.register_forward_pre_hook(record, with_kwargs=True))
    if not hooks:
        raise VertebraError(f"{type(model).__name__} has no attention maps; ViT, DeiT and Swin have.")
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return result
