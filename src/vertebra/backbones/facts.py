"""Counts of a backbone: parameters and multiply-adds, without computing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vertebra import backbones
from vertebra.nn.conv import ConvNorm
from vertebra.nn.shift import Shift
from vertebra.structures import Level
from vertebra.weights import Weights

CLASSES = 1000


@dataclass(frozen=True)
class Facts:
    """Counts of one backbone with a linear classifier of 1000 classes, as they are published."""

    name: str
    family: str
    parameters: int
    macs: int
    """Multiply-adds of convolutions and matrix products for one image."""
    size: int
    """Side of that image in pixels."""
    levels: tuple[Level, ...]
    weights: dict[str, Weights]
    """Known checkpoints."""
    top1: float | None
    """ImageNet-1k top-1 in percent as published for this backbone, or else of the best of its known checkpoints."""
    top1_source: str
    """Who measured that; empty if nobody did."""


def facts(name: str, size: int | None = None) -> Facts:
    """Counts backbone `name` on the meta device, at its own size if none is given; raises as `backbones.create`."""
    public = backbones.public_name(name)
    module = backbones.family(public)
    size = size or module.VARIANTS[public].image_size[0]
    with torch.device("meta"):
        model = backbones.create(public, embedding=True, image_size=(size, size)).eval()
        images = torch.empty(1, 3, size, size)
    parameters = sum(p.numel() for p in model.parameters())
    shifts = 0  # multiply-adds of shifts, which are not counted: their kernels are one 1 per channel

    def count(shift: nn.Module, _: object, output: Tensor) -> None:
        nonlocal shifts
        assert isinstance(shift, Shift)
        shifts += output.numel() * shift.kernel[0].numel()

    for part in model.modules():
        if isinstance(part, Shift):
            part.register_forward_hook(count)
        if isinstance(part, ConvNorm):
            part.norm = nn.Identity()  # not counted, and slow on the meta device
    from torch.utils.flop_counter import FlopCounterMode  # with triton, which takes a while to import

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.embed(images)
    head = model.width * CLASSES  # of all classifiers together
    weights = {key: card for key, card in module.WEIGHTS.items() if key.partition(".")[0] == public}
    best = max((card.top1 for card in weights.values() if card.top1), default=None)
    top1, source = getattr(module, "PUBLISHED", {}).get(public, (best, "timm" if best else ""))
    return Facts(
        name=public,
        family=module.__name__.rpartition(".")[2],
        parameters=parameters + head + CLASSES * model.num_classifiers,
        macs=counter.get_total_flops() // 2 - shifts + head,
        size=size,
        levels=model.levels,
        weights=weights,
        top1=top1,
        top1_source=source,
    )
