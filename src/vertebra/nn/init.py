"""First values of layers' weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from vertebra.nn.conv import ConvNorm

normal = partial(nn.init.normal_, std=0.01)
uniform = partial(nn.init.kaiming_uniform_, a=1)  # the variance of a layer without activation
before_relu = partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu")


def fill(layers: Iterable[nn.Module], weight: Callable[[Tensor], object]) -> None:
    """Puts first values into the weights of linear layers and convolutions, and zeros into their biases."""
    for each in layers:
        layer: Any = each.conv if isinstance(each, ConvNorm) else each
        weight(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
