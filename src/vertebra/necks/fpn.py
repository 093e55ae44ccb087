"""The feature pyramid network, and the extra levels that detectors add on top of a pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from vertebra.errors import VertebraError
from vertebra.nn import init
from vertebra.nn.conv import ConvNorm
from vertebra.structures import Level
from vertebra.weights import Rename


class FPN(nn.Module):
    """Top-down pathway with lateral connections: list of [B, C_i, h_i, w_i] -> list of [B, channels, h_i, w_i].

    Source: Feature Pyramid Networks for Object Detection, arXiv:1612.03144, section 3 and figure 3.
    """

    RULES = {  # noqa: RUF012
        "torchvision": (
            # Files from before torchvision 0.13 have no `.0`.
            Rename(r"^backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?(?=weight|bias)", r"neck.lateral.\1.conv."),
            Rename(r"^backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?(?=weight|bias)", r"neck.output.\1.conv."),
            Rename(r"^backbone\.fpn\.inner_blocks\.(\d)\.1\.", r"neck.lateral.\1.norm."),
            Rename(r"^backbone\.fpn\.layer_blocks\.(\d)\.1\.", r"neck.output.\1.norm."),
            Rename(r"^backbone\.fpn\.extra_blocks\.p([67])\.", lambda m: f"extra.convs.{int(m[1]) - 6}."),
        ),
        "mmdet": (
            Rename(r"^neck\.lateral_convs\.(\d)\.conv\.", r"neck.lateral.\1.conv."),
            Rename(r"^neck\.lateral_convs\.(\d)\.(?:bn|gn)\.", r"neck.lateral.\1.norm."),
            Rename(r"^neck\.fpn_convs\.(\d)\.(?:bn|gn)\.", r"neck.output.\1.norm."),
            Rename(r"^neck\.fpn_convs\.(\d)\.conv\.", r"neck.output.\1.conv."),
        ),
        "detectron2": (  # it counts levels by the logarithm of their stride
            Rename(r"^backbone\.fpn_lateral(\d)\.norm\.", r"neck.lateral.\1.norm."),
            Rename(r"^backbone\.fpn_output(\d)\.norm\.", r"neck.output.\1.norm."),
            Rename(r"^backbone\.fpn_lateral(\d)\.", r"neck.lateral.\1.conv."),
            Rename(r"^backbone\.fpn_output(\d)\.", r"neck.output.\1.conv."),
            Rename(r"^backbone\.top_block\.p([67])\.", lambda m: f"extra.convs.{int(m[1]) - 6}."),
        ),
    }

    def __init__(
        self,
        levels: Sequence[Level],
        channels: int = 256,
        strides: Sequence[int] = (4, 8, 16, 32),
        *,
        norm: bool = False,
        output: bool = True,
    ) -> None:
        """`levels` are the backbone's, of which those of `strides` are used; `norm` adds one after every convolution;
        without `output` the sums are the results, without a convolution of each.

        Raises:
            VertebraError: if a stride is not among the levels.
        """
        super().__init__()
        available = [level.stride for level in levels]
        if missing := [stride for stride in strides if stride not in available]:
            raise VertebraError(f"the backbone has no map of stride {missing[0]}; its strides are {available}.")
        self.indices = [available.index(stride) for stride in strides]
        plain: Any = {"activation": "none", "norm": norm}
        self.lateral = nn.ModuleList(ConvNorm(levels[i].channels, channels, 1, **plain) for i in self.indices)
        outputs = [ConvNorm(channels, channels, 3, **plain) for _ in self.indices] if output else []
        init.fill([*self.lateral, *outputs], init.uniform)
        self.output = nn.ModuleList(outputs or [nn.Identity() for _ in self.indices])
        self.levels = tuple(Level(stride, channels) for stride in strides)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        results: list[Tensor] = []
        coarser: Tensor | None = None
        for i in reversed(range(len(self.indices))):
            x = self.lateral[i](maps[self.indices[i]])
            coarser = x if coarser is None else x + nn.functional.interpolate(coarser, x.shape[2:], mode="nearest")
            results.insert(0, self.output[i](coarser))
        return results


class ExtraLevels(nn.Module):
    """Adds maps of twice the stride each on top of a pyramid: list of n [B, C, h, w] -> list of n + count.

    Source: by subsampling, arXiv:1612.03144, section 4.1; by convolution, RetinaNet, arXiv:1708.02002, footnote 2.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        count: int = 1,
        *,
        source_channels: int | None = None,
        relu: bool = True,
        norm: bool = False,
    ) -> None:
        """`source_channels`, if levels are made by convolution instead of subsampling, are those of the map that the
        first one is made from; `relu` then says whether a ReLU precedes the further ones, and `norm` whether a norm
        follows the convolutions."""
        super().__init__()
        last = levels[-1]
        self.count, self.relu = count, relu
        inputs = [source_channels or 0] + [last.channels] * (count - 1)
        make: Any = partial(ConvNorm, activation="none") if norm else partial(nn.Conv2d, padding=1)
        convs = (make(n, last.channels, 3, stride=2) for n in inputs)
        self.convs = nn.ModuleList(convs) if source_channels else None
        added = tuple(Level(last.stride * 2 ** (i + 1), last.channels) for i in range(count))
        self.levels = (*levels, *added)
        init.fill(self.convs or (), init.uniform)

    def forward(self, maps: Sequence[Tensor], source: Tensor | None = None) -> list[Tensor]:
        results, x = list(maps), maps[-1] if source is None else source
        for i in range(self.count):
            x = F.max_pool2d(x, 1, 2) if self.convs is None else self.convs[i](x.relu() if i and self.relu else x)
            results.append(x)
        return results
