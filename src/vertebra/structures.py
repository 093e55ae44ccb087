"""The nouns that cross folder borders: Level, Target, Prediction, Preprocess."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Level:
    """One map of a feature pyramid."""

    stride: int
    """Input pixels per feature cell."""
    channels: int
    """Channels of the map."""


@dataclass
class Target:
    """What is true of one picture, for every task; a task reads the fields it needs, the others are None.

    Boxes are x1, y1, x2, y2 in input pixels, end exclusive.
    """

    label: Tensor | None = None
    """Class of the whole picture: [] int64, or [classes] float32 that sums to 1 (a soft label)."""
    boxes: Tensor | None = None
    """[N, 4] float32."""
    labels: Tensor | None = None
    """[N] int64, class of each instance."""
    masks: Tensor | None = None
    """[N, H, W] bool, one mask per instance."""
    keypoints: Tensor | None = None
    """[N, K, 3] float32: x, y in input pixels and visibility (0 absent, 1 hidden, 2 seen)."""
    semantic: Tensor | None = None
    """[H, W] int64, class of each pixel; 255 is ignored."""
    path: str = ""
    """Where the picture came from."""


@dataclass
class Prediction:
    """What a model says of one picture, for every task; fields a task does not fill are None."""

    probabilities: Tensor | None = None
    """[classes] float32 that sums to 1."""
    embedding: Tensor | None = None
    """[width] float32, the pooled features."""
    boxes: Tensor | None = None
    """[N, 4] float32, x1, y1, x2, y2 in pixels of the original picture."""
    labels: Tensor | None = None
    """[N] int64."""
    scores: Tensor | None = None
    """[N] float32 in 0..1, falling."""
    masks: Tensor | None = None
    """[N, H, W] bool."""
    keypoints: Tensor | None = None
    """[N, K, 3] float32: x, y, score."""
    semantic: Tensor | None = None
    """[H, W] int64."""
    path: str = ""
    """Where the picture came from, if it had a path."""

    def top(self, count: int = 5) -> list[tuple[int, float]]:
        """The `count` likeliest classes of the whole picture as (class index, probability), falling."""
        assert self.probabilities is not None, "this prediction has no class probabilities"
        values, indices = self.probabilities.topk(min(count, len(self.probabilities)))
        return list(zip(indices.tolist(), values.tolist(), strict=True))


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes a network's input; it travels inside every checkpoint."""

    size: tuple[int, int] = (224, 224)
    """(height, width) in pixels of the input."""
    crop: float = 1.0
    """Share of the resized picture's side that the centre crop keeps, in 0..1 (timm's crop_pct)."""
    resize: str = "crop"
    """`crop` keeps the aspect ratio and cuts the centre; `squash` stretches to the size."""
    interpolation: str = "bilinear"
    """`bilinear`, `bicubic` or `nearest`; anti-aliased."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Subtracted per channel, on a 0..1 scale."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Divided by per channel, on a 0..1 scale."""

    @property
    def channels(self) -> int:
        return len(self.mean)

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> Preprocess:
        """The inverse of `dataclasses.asdict`, also after a trip through JSON."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return Preprocess(**plain)
