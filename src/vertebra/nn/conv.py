"""Convolution, norm and activation as one layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vertebra.nn.norm import is_frozen
from vertebra.ops.convolve import conv_of_resized
from vertebra.ops.winograd import tile_grid, winograd_conv, winograd_weight, winograd_weight_gradient

LARGE = 1 << 17
"""Values in the map of an image, from which processors without AVX-512 compute some gradients faster on contiguous
tensors."""
WIDE, TILES = 128, 32
"""Channels, and tiles of 4 x 4 cells, from which Winograd's products take less time than oneDNN's convolution on
processors without AVX-512."""


def _silu(x: Tensor) -> Tensor:
    # In-place SiLU makes autograd keep a clone of its input, so it only pays where nothing is recorded.
    return nn.functional.silu(x, inplace=not x.requires_grad)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "silu": _silu,
    "none": lambda x: x,
}


class Conv2d(nn.Conv2d):
    """torch's convolution, with gradients in the memory order in which they are computed fastest.

    Without AVX-512, those of a 3x3 convolution of a large map take oneDNN up to 2.4 times as long channels-last (256
    channels of 128 x 128 cells: 2.4 s instead of 1.0 s; 64 channels of 100 x 136: 1.8 times).
    """

    def forward(self, x: Tensor) -> Tensor:
        if (
            not torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or not is_plain_3x3(self)
            or not (x.shape[1:].numel() >= LARGE or _trains_by_winograd(x, self.weight))
            or not x.is_contiguous(memory_format=torch.channels_last)
            or not _on_avx2(x)
        ):
            return super().forward(x)
        y: Tensor = _ContiguousGradients.apply(x, self.weight, self.bias)
        return y


class ReluConv2d(Conv2d):
    """A convolution whose weights are drawn for a ReLU behind it."""

    def reset_parameters(self) -> None:
        if self.weight.is_meta:  # where it would take most of the time of building a network
            return
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:  # as in torch
            bound = self.weight[0].numel() ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)


class SameConv2d(ReluConv2d):
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
        norm: bool = True,
        dilation: int = 1,
    ) -> None:
        """`norm` makes a batch norm, which `nn.norm.replace_norm` may replace; without it the layer has a bias."""
        super().__init__()
        bias = bias or not norm
        # At stride 1 an odd kernel's "same" padding is the symmetric one, which convolution does for free.
        if same and stride > 1:
            self.conv: nn.Conv2d = SameConv2d(inputs, outputs, kernel, stride, 0, groups=groups, bias=bias)
        else:
            padding = kernel // 2 * dilation
            self.conv = ReluConv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias)
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps) if norm else nn.Identity()
        self.activation = activation
        self.keeps_residual = False  # True forbids the inference form to overwrite `residual`

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = _norm(self.norm, self.conv(x))
        if residual is not None:
            y += residual
        return ACTIVATIONS[self.activation](y)

    def extra_repr(self) -> str:
        return f"activation={self.activation}"


class Deconv(nn.Module):
    """A transposed convolution that doubles the sides, batch norm and ReLU: [B, C, h, w] -> [B, C', 2 h, 2 w]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return _norm(self.norm, self.conv(x)).relu_()


class ConvOfMaps(ConvNorm):
    """A ConvNorm of maps that are resized to one size and concatenated: [B, C_i, h_i, w_i] each -> [B, C', H, W].

    The weights are those of a convolution of the concatenated maps, and so are the numbers, to rounding.
    """

    def forward(self, maps: Sequence[Tensor], size: Sequence[int], align_corners: bool = False) -> Tensor:  # type: ignore[override]
        """`size` is (H, W); maps of another size are resized to it bilinearly."""
        y = conv_of_resized(maps, self.conv.weight, self.conv.bias, size, align_corners)
        return ACTIVATIONS[self.activation](_norm(self.norm, y))


class _ContiguousGradients(torch.autograd.Function):
    """A 3x3 convolution whose gradients are computed on contiguous copies of channels-last tensors; of wide maps, the
    output and the gradients are computed by Winograd's algorithm."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biases = None if bias is None else [len(bias)]
        ctx.wide = _trains_by_winograd(x, weight)
        if ctx.wide:
            return winograd_conv(x, winograd_weight(weight), bias)
        return nn.functional.conv2d(x, weight, bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if ctx.wide:
            return (
                winograd_conv(gradient, winograd_weight(weight.flip(2, 3).transpose(0, 1))) if needed[0] else None,
                winograd_weight_gradient(x, gradient) if needed[1] else None,
                gradient.sum((0, 2, 3)) if needed[2] else None,
            )
        tensors = [tensor.contiguous() for tensor in (gradient, x, weight)]
        one, not_transposed = [1, 1], (False, [0, 0])  # stride, padding and dilation are 1
        of_x, *others = torch.ops.aten.convolution_backward(
            *tensors, ctx.biases, one, one, one, *not_transposed, 1, needed
        )
        if of_x is not None:
            of_x = of_x.contiguous(memory_format=torch.channels_last)
        return of_x, *others


def is_plain_3x3(conv: nn.Conv2d) -> bool:
    """Whether it is a 3x3 convolution of stride 1, padded with one zero on each side."""
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


def is_wide(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a layer is a 3x3 convolution with WIDE input and output channels, and no other subclass, which may
    compute something else."""
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer) in (nn.Conv2d, Conv2d, ReluConv2d)
        and is_plain_3x3(layer)
        and min(layer.in_channels, layer.out_channels) >= WIDE
    )


def winograd_pays(x: Tensor) -> bool:
    """Whether Winograd's algorithm computes the convolution of `x` by a wide layer faster than oneDNN does."""
    return _tiles(x) >= TILES and _on_avx2(x)


def _trains_by_winograd(x: Tensor, weight: Tensor) -> bool:
    """Whether a training step by Winograd's algorithm is faster: from more tiles on than inference, as weights are
    transformed each time."""
    return min(weight.shape[:2]) >= WIDE and _tiles(x) >= 4 * TILES


def _tiles(x: Tensor) -> int:
    """Tiles of all images."""
    rows, columns = tile_grid(x)
    return x.shape[0] * rows * columns


def _on_avx2(x: Tensor) -> bool:
    """Whether a processor with AVX2 at best computes with it in float32."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
    )


def _norm(norm: nn.Module, y: Tensor) -> Tensor:
    """`norm(y)`, in `y`'s memory where nothing is recorded: one map less in memory, up to a tenth of a forward pass."""
    if (
        torch.compiler.is_compiling()
        or not (isinstance(norm, nn.BatchNorm2d) or is_frozen(norm))
        or (norm.training and isinstance(norm, nn.BatchNorm2d))
        or torch.is_grad_enabled()
        or y.device.type != "cpu"
        or y.dtype != norm.weight.dtype
    ):
        normed: Tensor = norm(y)
        return normed.to(y.dtype)  # frozen norms would make float32 of half precision
    means, deviations = y.new_empty(0), y.new_empty(0)  # of the batch: empty in eval mode
    torch.native_batch_norm(
        y, norm.weight, norm.bias, norm.running_mean, norm.running_var, False, 0.0, norm.eps, out=(y, means, deviations)
    )
    return y
