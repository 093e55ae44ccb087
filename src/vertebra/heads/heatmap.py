"""Heads of top-down pose estimation: a map of a backbone -> a heatmap of each keypoint.

Shapes: B batch, C channels, h x w feature cells, K keypoints.
"""

from __future__ import annotations

from torch import Tensor, nn

from vertebra.heads.decode import resize
from vertebra.nn import init
from vertebra.nn.conv import Deconv


class DeconvHead(nn.Module):
    """Transposed convolutions, each doubling the sides, and a 1x1 convolution: [B, C, h, w] -> [B, K, H, W].

    Without transposed convolutions, it is the head of HRNet.

    Sources: Simple Baselines for Human Pose Estimation, arXiv:1804.06208, section 2; Deep High-Resolution
    Representation Learning, arXiv:1902.09212, section 3.
    """

    def __init__(self, inputs: int, channels: int, num_deconvs: int, num_keypoints: int) -> None:
        super().__init__()
        self.deconvs = nn.Sequential(*(Deconv(inputs if i == 0 else channels, channels) for i in range(num_deconvs)))
        self.final = nn.Conv2d(channels if num_deconvs else inputs, num_keypoints, 1)
        init.fill(
            [*(module for module in self.modules() if isinstance(module, nn.ConvTranspose2d)), self.final], init.small
        )

    def forward(self, x: Tensor) -> Tensor:
        heatmaps: Tensor = self.final(self.deconvs(x))
        return heatmaps


class UpsampleHead(nn.Module):
    """ReLU, bilinear upsampling and a 3x3 convolution: [B, C, h, w] -> [B, K, factor h, factor w].

    Source: ViTPose, arXiv:2204.12484, section 3.1.
    """

    def __init__(self, inputs: int, factor: int, num_keypoints: int) -> None:
        super().__init__()
        self.factor = factor
        self.final = nn.Conv2d(inputs, num_keypoints, 3, padding=1)
        init.fill([self.final], init.small)

    def forward(self, x: Tensor) -> Tensor:
        heatmaps: Tensor = self.final(resize(x.relu(), [self.factor * side for side in x.shape[2:]]))
        return heatmaps
