"""Convolution, batch norm and activation as one layer, and what inference makes of it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def _silu(x: Tensor) -> Tensor:
    # In-place SiLU makes autograd keep a clone of its input, so it only pays where nothing is recorded.
    return nn.functional.silu(x, inplace=not x.requires_grad)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "silu": _silu,
    "none": lambda x: x,
}
_ONEDNN = {"relu": "relu", "silu": "swish", "none": "none"}  # the same activations as oneDNN names them


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "same" does: [B, C, H, W] -> [B, C', ceil(H / s), ceil(W / s)].

    At stride 2 on an even side the odd padding pixel goes to the bottom and right.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.pad(x))

    def pad(self, x: Tensor) -> Tensor:
        sides: list[int] = []
        for axis in (1, 0):  # functional.pad wants the last axis first
            size, kernel, stride = x.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            sides += [total // 2, total - total // 2]
        return nn.functional.pad(x, sides)


class ConvNorm(nn.Module):
    """activation(norm(conv(x)) + residual): [B, C, H, W] -> [B, C', H / stride, W / stride]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: str = "relu",
        eps: float = 1e-5,
        same: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        # At stride 1 an odd kernel's "same" padding is the symmetric one, which convolution does for free.
        if same and stride > 1:
            self.conv: nn.Conv2d = SameConv2d(inputs, outputs, kernel, stride, 0, groups=groups, bias=bias)
        else:
            self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)
        self.norm = nn.BatchNorm2d(outputs, eps)
        self.activation = activation
        self.keeps_residual = False  # True forbids the inference form to overwrite it
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = _norm(self.norm, self.conv(x))
        if residual is not None:
            y += residual
        return ACTIVATIONS[self.activation](y)

    def extra_repr(self) -> str:
        return f"activation={self.activation}"


def _norm(norm: nn.BatchNorm2d, y: Tensor) -> Tensor:
    """`norm(y)`, in `y`'s own memory where nothing is recorded: one map less alive, up to a tenth of a forward pass."""
    if (
        norm.training
        or torch.is_grad_enabled()
        or y.device.type != "cpu"
        or y.dtype != norm.weight.dtype
        or torch.compiler.is_compiling()
    ):
        normed: Tensor = norm(y)
        return normed
    means, deviations = y.new_empty(0), y.new_empty(0)  # of the batch: empty in eval mode
    torch.native_batch_norm(
        y, norm.weight, norm.bias, norm.running_mean, norm.running_var, False, 0.0, norm.eps, out=(y, means, deviations)
    )
    return y


class FoldedConv(nn.Module):
    """A ConvNorm for inference: norm folded into the weights, activation and sum fused where oneDNN can.

    Same shapes and, to rounding, same numbers as the ConvNorm in eval mode that it is made from. `residual` is
    overwritten, which saves a map's memory, unless the ConvNorm `keeps_residual`.
    """

    def __init__(self, source: ConvNorm) -> None:
        super().__init__()
        self.activation, self.keeps_residual = source.activation, source.keeps_residual
        self.conv = fuse_conv_bn_eval(copy.deepcopy(source.conv).eval(), source.norm)
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


def _onednn_takes(x: Tensor) -> bool:
    """Whether the fused operators, which torch's own compiler calls, exist for this tensor."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


def fold(model: nn.Module) -> nn.Module:
    """Replaces every ConvNorm inside `model`, in place, by its inference form, and returns the model in eval mode."""
    model.eval()
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, ConvNorm):
                setattr(module, name, FoldedConv(child))
    return model
