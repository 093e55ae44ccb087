"""Object-contextual representations.

Shapes: B batch, C channels, h x w feature cells, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from vertebra.heads.decode import Classifier, FCNHead
from vertebra.nn.conv import ConvNorm, ConvOfMaps
from vertebra.structures import Level


class OCRHead(nn.Module):
    """Every cell attends to the representations of the K soft object regions: maps -> logits [B, K, h, w] of the
    finest, and those of the regions.

    The regions are a coarse segmentation, which has a loss of its own. Source: Segmentation Transformer:
    Object-Contextual Representations, arXiv:1909.11065, section 3.2 and figure 3.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        channels: int,
        num_classes: int,
        *,
        keys: int = 256,
        dropout: float = 0.05,
        align_corners: bool = False,
    ) -> None:
        """`channels` are those of pixels and objects, `keys` those that their similarity is computed in."""
        super().__init__()
        self.align_corners = align_corners
        total = sum(level.channels for level in levels)
        self.regions = FCNHead(
            levels, total, num_classes, kernel=1, bias=True, dropout=0.0, align_corners=align_corners
        )
        self.pixels = ConvOfMaps(total, channels, 3, bias=True)
        self.query = nn.Sequential(ConvNorm(channels, keys), ConvNorm(keys, keys))
        self.key = nn.Sequential(ConvNorm(channels, keys), ConvNorm(keys, keys))
        self.value = ConvNorm(channels, keys)
        self.context = ConvNorm(keys, channels)
        self.fuse = nn.Sequential(ConvNorm(2 * channels, channels), nn.Dropout2d(dropout))
        self.classify = Classifier(channels, num_classes, 0.0)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        regions = self.regions(maps)  # [B, K, h, w]
        pixels = self.pixels(maps, maps[0].shape[2:], self.align_corners)  # [B, channels, h, w]
        shares = regions.flatten(2).softmax(2)  # of each cell in each region: equation 2
        objects = (shares @ pixels.flatten(2).mT).mT[..., None]  # [B, channels, K, 1]: equation 3
        query, key, value = (
            part.flatten(2).mT for part in (self.query(pixels), self.key(objects), self.value(objects))
        )
        attended = scaled_dot_product_attention(query, key, value).mT  # [B, keys, h w]: equations 4 and 5
        context = self.context(attended.unflatten(2, pixels.shape[2:]))
        return self.classify(self.fuse(torch.cat([context, pixels], 1))), regions
