"""What inference makes of convolutions and linear layers: weights packed for the CPU, norm and activation fused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from vertebra.nn.conv import ACTIVATIONS, ConvNorm, SameConv2d
from vertebra.nn.mlp import LinearGelu

_ONEDNN = {"relu": "relu", "silu": "swish", "none": "none"}  # activations as oneDNN names them


class FoldedConv(nn.Module):
    """A ConvNorm for inference: norm folded into the weights, activation and sum fused where oneDNN can.

    Same shapes and, to rounding, same numbers as the ConvNorm in eval mode that it is made from. `residual` is
    overwritten, which saves a map's memory, unless the ConvNorm `keeps_residual`.
    """

    def __init__(self, source: ConvNorm) -> None:
        super().__init__()
        self.activation, self.keeps_residual = source.activation, source.keeps_residual
        self.conv = copy.deepcopy(source.conv).eval()
        if isinstance(norm := source.norm, _BatchNorm | FrozenBatchNorm2d):  # the synchronous one too
            fused: Any = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
            self.conv.weight, self.conv.bias = fuse_conv_bn_weights(self.conv.weight, self.conv.bias, *fused)
        self.conv.requires_grad_(False)
        self._packed: Tensor | None = None  # weights in oneDNN's own layout; made on the first call on a CPU

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if _onednn_takes(x) and not torch.compiler.is_compiling():
            return self._onednn(x, residual)
        y = self.conv(x)
        if residual is not None:
            y += residual
        return ACTIVATIONS[self.activation](y)

    def _onednn(self, x: Tensor, residual: Tensor | None) -> Tensor:
        conv, ops = self.conv, torch.ops.mkldnn
        if isinstance(conv, SameConv2d):
            x = conv.pad(x)
        geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        if self._packed is None:
            self._packed = ops._reorder_convolution_weight(conv.weight, *geometry, list(x.shape))
        name = _ONEDNN[self.activation]
        if residual is None:
            return ops._convolution_pointwise(x, self._packed, conv.bias, *geometry, name, [], None)
        if self.keeps_residual:
            residual = residual.clone()
        after = "relu" if self.activation == "relu" else None  # the one activation that oneDNN takes after a sum
        y = ops._convolution_pointwise_.binary(
            residual, x, self._packed, conv.bias, *geometry, "add", None, after, [], None
        )
        return y if after else ACTIVATIONS[self.activation](y)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FoldedConv:
        self._packed = None  # a move or cast makes the packed copy stale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


class FoldedLinear(nn.Linear):
    """A linear layer for inference, with the GELU that follows a LinearGelu: [..., C] -> [..., C']."""

    def __init__(self, source: nn.Linear) -> None:
        super().__init__(source.in_features, source.out_features, source.bias is not None, device="meta")
        self.weight, self.bias = source.weight, source.bias
        self.requires_grad_(False)
        self.gelu = source.approximate if isinstance(source, LinearGelu) else None
        self._packed: Tensor | None = None  # as FoldedConv's

    def forward(self, x: Tensor) -> Tensor:
        if not _onednn_takes(x) or torch.compiler.is_compiling():
            y = super().forward(x)
            return y if self.gelu is None else nn.functional.gelu(y, approximate=self.gelu)
        ops = torch.ops.mkldnn
        if self._packed is None:
            self._packed = ops._reorder_linear_weight(self.weight, x.numel() // x.shape[-1])
        name, how = ("none", "") if self.gelu is None else ("gelu", self.gelu)
        packed: Tensor = ops._linear_pointwise(x.contiguous(), self._packed, self.bias, name, [], how)
        return packed

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FoldedLinear:
        self._packed = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _onednn_takes(x: Tensor) -> bool:
    """Whether the fused operators, which torch's own compiler calls, exist for this tensor."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def fold(model: nn.Module) -> nn.Module:
    """Replaces every ConvNorm whose norm is linear, and every linear layer, inside `model` by its inference form, in
    place, and returns the model in eval mode."""
    model.eval()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, ConvNorm) and not isinstance(child.norm, nn.GroupNorm):
                setattr(module, name, FoldedConv(child))
            elif isinstance(child, nn.Linear):
                setattr(module, name, FoldedLinear(child))
    return model
