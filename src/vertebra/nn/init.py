"""Initial values of layers' weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from vertebra.nn.conv import ConvNorm

normal = partial(nn.init.normal_, std=0.01)
small = partial(nn.init.normal_, std=0.001)
uniform = partial(nn.init.kaiming_uniform_, a=1)  # the variance of a layer without activation
before_relu = partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu")


def fill(layers: Iterable[nn.Module], weight: Callable[[Tensor], object]) -> None:
    """Initialises the weights of linear layers and convolutions with `weight`, and their biases with zeros."""
    for layer in layers:
        inner: Any = layer.conv if isinstance(layer, ConvNorm) else layer
        weight(inner.weight)
        if inner.bias is not None:
            nn.init.zeros_(inner.bias)
