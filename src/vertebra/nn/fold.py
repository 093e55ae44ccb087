"""Inference forms of convolutions and linear layers: weights packed for the CPU, norm and activation fused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from vertebra.nn.conv import ACTIVATIONS, ConvNorm, ConvOfMaps, Deconv, SameConv2d, is_wide, winograd_pays
from vertebra.nn.deform import DeformConv2d
from vertebra.nn.mlp import LinearGelu
from vertebra.nn.norm import is_frozen
from vertebra.ops.winograd import winograd_conv, winograd_weight

Packed = tuple[torch.dtype, Tensor, Tensor | None]
"""Weights in oneDNN's own layout, and the bias, both of this type."""
_ONEDNN = {"relu": "relu", "silu": "swish", "none": "none"}  # activations as oneDNN names them


class FoldedConv(nn.Module):
    """A ConvNorm for inference: norm folded into the weights, activation and sum fused where oneDNN can.

    Same shapes and, to rounding, same numbers as the ConvNorm in eval mode that it is made from. `residual` is
    overwritten, which saves a map's memory, unless the ConvNorm `keeps_residual`.
    """

    def __init__(self, source: ConvNorm) -> None:
        super().__init__()
        self.activation, self.keeps_residual = source.activation, source.keeps_residual
        self.conv = _folded(source)
        self._packed: Packed | None = None  # made on the first call on a CPU

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        plain = not (isinstance(self.conv, DeformConv2d) or (isinstance(self.conv, WideConv2d) and self.conv.pays(x)))
        if plain and not torch.compiler.is_compiling() and (kind := _onednn_type(x)):
            return self._onednn(x.to(kind), None if residual is None else residual.to(kind))
        y = self.conv(x)
        if residual is not None:
            y += residual
        return ACTIVATIONS[self.activation](y)

    def _onednn(self, x: Tensor, residual: Tensor | None) -> Tensor:
        conv, ops = self.conv, torch.ops.mkldnn
        if isinstance(conv, SameConv2d):
            x = conv.pad(x)
        geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        if self._packed is None or self._packed[0] != x.dtype:
            bias = None if conv.bias is None else conv.bias.to(x.dtype)
            packed = ops._reorder_convolution_weight(conv.weight.to(x.dtype), *geometry, list(x.shape))
            self._packed = x.dtype, packed, bias
        _, weight, bias = self._packed
        name = _ONEDNN[self.activation]
        if residual is None:
            return ops._convolution_pointwise(x, weight, bias, *geometry, name, [], None)
        if self.keeps_residual:
            residual = residual.clone()
        after = "relu" if self.activation == "relu" else None  # the one activation that oneDNN takes after a sum
        y = ops._convolution_pointwise_.binary(residual, x, weight, bias, *geometry, "add", None, after, [], None)
        return y if after else ACTIVATIONS[self.activation](y)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FoldedConv:
        self._packed = None  # a move or cast makes the packed copy stale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


class WideConv2d(nn.Conv2d):
    """A plain 3x3 convolution for inference: by Winograd's algorithm where that takes less time."""

    def __init__(self, source: nn.Conv2d) -> None:
        shape = (source.in_channels, source.out_channels, 3, 1, 1)
        super().__init__(*shape, bias=source.bias is not None, device="meta")
        self.weight, self.bias = source.weight, source.bias
        self.requires_grad_(False)
        self._transformed: Tensor | None = None  # made on the first call

    def forward(self, x: Tensor) -> Tensor:
        if not self.pays(x):
            return super().forward(x)
        if self._transformed is None:
            self._transformed = winograd_weight(self.weight)
        return winograd_conv(x, self._transformed, self.bias)

    def pays(self, x: Tensor) -> bool:
        """Whether Winograd's algorithm takes less time."""
        return not torch.compiler.is_compiling() and not torch.is_grad_enabled() and winograd_pays(x)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WideConv2d:
        self._transformed = None  # a move or cast makes it stale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _folded(source: ConvNorm | Deconv) -> Any:
    """Its convolution, with the norm in the weights."""
    conv: Any = copy.deepcopy(source.conv).eval()
    if isinstance(norm := source.norm, _BatchNorm) or is_frozen(norm):  # the synchronous one too
        fused: Any = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias, conv.transposed)
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *fused)
    conv.requires_grad_(False)
    return WideConv2d(conv) if is_wide(conv) else conv


class FoldedLinear(nn.Linear):
    """A linear layer for inference, with the GELU that follows a LinearGelu: [..., C] -> [..., C']."""

    def __init__(self, source: nn.Linear) -> None:
        super().__init__(source.in_features, source.out_features, source.bias is not None, device="meta")
        self.weight, self.bias = source.weight, source.bias
        self.requires_grad_(False)
        self.gelu = source.approximate if isinstance(source, LinearGelu) else None
        self._packed: Packed | None = None  # as FoldedConv's

    def forward(self, x: Tensor) -> Tensor:
        kind = None if torch.compiler.is_compiling() else _onednn_type(x)
        if kind is None:
            plain = super().forward(x)
            return plain if self.gelu is None else nn.functional.gelu(plain, approximate=self.gelu)
        ops = torch.ops.mkldnn
        if self._packed is None or self._packed[0] != kind:
            bias = None if self.bias is None else self.bias.to(kind)
            packed = ops._reorder_linear_weight(self.weight.to(kind), x.numel() // x.shape[-1])
            self._packed = kind, packed, bias
        _, weight, added = self._packed
        name, how = ("none", "") if self.gelu is None else ("gelu", self.gelu)
        y: Tensor = ops._linear_pointwise(x.to(kind).contiguous(), weight, added, name, [], how)
        return y

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FoldedLinear:
        self._packed = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _onednn_type(x: Tensor) -> torch.dtype | None:
    """The type that the fused operators, which torch's own compiler calls, compute this tensor in: float32, or bfloat16
    under autocast; None if they cannot."""
    ops = torch.ops.mkldnn
    if (
        x.device.type != "cpu"
        or torch.is_grad_enabled()
        or not torch.backends.mkldnn.is_available()
        or not hasattr(ops, "_linear_pointwise")
    ):
        return None
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if kind == torch.float32 or (kind == torch.bfloat16 and ops._is_mkldnn_bf16_supported()):
        return kind
    return None


def fold(model: nn.Module) -> nn.Module:
    """Replaces every ConvNorm whose norm is linear, and every linear layer, inside `model` by its inference form, in
    place, and returns the model in eval mode."""
    model.eval()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, ConvOfMaps | Deconv) and not isinstance(child.norm, nn.GroupNorm):
                child.conv, child.norm = _folded(child), nn.Identity()
            elif isinstance(child, ConvNorm) and not isinstance(child.norm, nn.GroupNorm):
                setattr(module, name, FoldedConv(child))
            elif is_wide(child):
                setattr(module, name, WideConv2d(child))
            # Other subclasses may compute something else.
            elif isinstance(child, nn.Linear) and type(child) in (nn.Linear, LinearGelu):
                setattr(module, name, FoldedLinear(child))
    return model
