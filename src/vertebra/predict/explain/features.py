"""Feature maps of a backbone, gradients with respect to them, and maps of cells as maps of pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vertebra.backbones import Backbone
from vertebra.errors import VertebraError
from vertebra.tasks import Task

Score = Callable[[Tensor], Tensor]
"""Normalised images [N, C, H, W] -> [N], with a gradient."""


def has_scores(task: Task) -> bool:
    """Whether a task says how sure it is of an answer."""
    return type(task).answer_score is not Task.answer_score


def has_maps(task: Task) -> bool:
    """Whether a task also has a backbone, whose feature maps Grad-CAM reads."""
    return has_scores(task) and isinstance(getattr(task, "backbone", None), Backbone)


def has_attention(task: Task) -> bool:
    """Whether the attention of a task's backbone can be rolled out."""
    return has_maps(task) and type(backbone_of(task)).rollout is not Backbone.rollout


def backbone_of(task: Task) -> Backbone:
    """The task's backbone; VertebraError if it has none."""
    backbone = getattr(task, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise VertebraError(f"{type(task).__name__} has no backbone, whose feature maps are needed: use occlusion.")
    return backbone


def feature_gradients(task: Task, images: Tensor, score: Score, level: int | None) -> tuple[Tensor, Tensor]:
    """A feature map of the backbone, and the gradient of the score with respect to it: [B, C, h, w] each.

    Where the head of the last map reads a class token alone, no cell of it has a gradient; then both are those of the
    input of the last block with a gradient.

    Args:
        images: [B, C, H, W], normalised.
        level: index of the map, 0 is the finest; None takes the coarsest one that the score depends on.

    Raises:
        VertebraError: if there is no such level, or the score does not depend on it.
    """
    backbone = backbone_of(task)
    count = len(backbone.levels)
    if level is not None and not -count <= level < count:
        raise VertebraError(f"level is {level}; the backbone has {count} maps, 0 (the finest) to {count - 1}.")
    with torch.enable_grad(), _recorded(backbone) as (levels, outputs):
        total = score(images.detach().requires_grad_()).sum()  # all maps need a gradient, of frozen networks too
    connected = None
    chosen = [] if not total.requires_grad else [levels[level]] if level is not None else reversed(levels)
    for features in chosen:
        base = features if features._base is None else features._base  # the head may read it in another layout
        same = [output for output in outputs if output.shape == base.shape and output is not base]
        for source in (base, *reversed(same)):
            (gradient,) = torch.autograd.grad(total, source, retain_graph=True, allow_unused=True)
            if gradient is None:
                continue
            values, slopes = (_as_map(x, source, features) for x in (source.detach(), gradient))
            if slopes.any():
                return values, slopes
            connected = connected or (values, slopes)
    if connected is not None:  # by units that are all inactive
        return connected
    where = "any feature map" if level is None else f"the map of level {level}"
    raise VertebraError(f"the score does not depend on {where} of the backbone: choose another level, or occlusion.")


@contextlib.contextmanager
def _recorded(backbone: Backbone) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Collects the maps of the backbone, finest first, and the outputs of its layers, when it is called."""
    levels: list[Tensor] = []
    outputs: list[Tensor] = []
    forward = backbone.forward_features

    def recording(images: Tensor, on_level: Callable[[Tensor], object]) -> Tensor:
        def keep(features: Tensor) -> None:
            levels.append(features)
            on_level(features)

        return forward(images, keep)

    def record(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.append(output)

    hooks = [layer.register_forward_hook(record) for layer in backbone.layers()]
    backbone.forward_features = recording  # type: ignore[method-assign]
    try:
        yield levels, outputs
    finally:
        del backbone.forward_features
        for hook in hooks:
            hook.remove()


def _as_map(values: Tensor, source: Tensor, features: Tensor) -> Tensor:
    """Values of the layout of `source` as those of `features`, which is a view of a tensor of that layout."""
    if features._base is None:
        return values
    laid = torch.empty_strided(source.shape, features._base.stride(), dtype=values.dtype, device=values.device)
    offset = features.storage_offset() - features._base.storage_offset()
    return laid.copy_(values).as_strided(features.shape, features.stride(), offset)


def to_pixels(maps: Tensor, size: tuple[int, int], backbone: Backbone) -> Tensor:
    """Maps of cells [B, h, w] as maps of pixels [B, H, W] of (H, W) `size`, bilinear, in 0..1 (see `normalised`)."""
    height, width = size
    grown = size
    for stride in (level.stride for level in backbone.levels):
        if (-(-height // stride), -(-width // stride)) == tuple(maps.shape[1:]):
            grown = (maps.shape[1] * stride, maps.shape[2] * stride)  # cells at the border may reach beyond the image
    pixels = interpolate(maps[:, None].float(), grown, mode="bilinear", align_corners=False)
    return normalised(pixels[:, 0, :height, :width])


def normalised(maps: Tensor) -> Tensor:
    """Maps [B, H, W] without their negative values, divided by their maximum."""
    positive = maps.clamp(min=0)
    return positive / positive.amax((1, 2), keepdim=True).clamp(min=torch.finfo(positive.dtype).tiny)
