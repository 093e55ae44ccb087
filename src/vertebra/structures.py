"""The nouns that cross folder borders: Level, Target, Prediction, Masks, Points, Frame, Preprocess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
    masks: Tensor | Masks | None = None
    """One mask per instance: [N, H, W] bool to learn from; each cut to its own rectangle where it is judged."""
    keypoints: Tensor | None = None
    """[N, K, 3] float32: x, y in input pixels and visibility (0 absent, 1 hidden, 2 seen)."""
    crowd: Tensor | None = None
    """[N] bool: a region of many objects that nobody told apart. It is neither learned from nor counted as missed."""
    areas: Tensor | None = None
    """[N] float32, square pixels as annotated, by which COCO's metrics tell small objects from large."""
    semantic: Tensor | None = None
    """[H, W] int64, class of each pixel; 255 is ignored."""
    size: tuple[int, int] | None = None
    """(height, width) in pixels of the picture that boxes and keypoints refer to, without padding."""
    id: int | None = None
    """The picture's number in its data set's own file."""
    path: str = ""
    """Where the picture came from."""


@dataclass
class Masks:
    """Instance masks, each cut to its own rectangle: a large picture's thousand objects would not fit as [N, H, W]."""

    size: tuple[int, int]
    """(height, width) of the picture in pixels."""
    corners: list[tuple[int, int]] = field(default_factory=list)
    """(x, y) in the picture of each rectangle's top left pixel."""
    crops: list[Tensor] = field(default_factory=list)
    """[h, w] bool, inside the picture; both sides may be 0."""

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> Tensor:
        """One mask over the whole picture: [H, W] bool."""
        (x, y), crop = self.corners[index], self.crops[index]
        mask = crop.new_zeros(self.size)
        mask[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        return mask

    def dense(self) -> Tensor:
        """[N, H, W] bool."""
        import torch

        return torch.stack([self[i] for i in range(len(self))]) if len(self) else torch.zeros(0, *self.size).bool()

    def take(self, indices: Sequence[int]) -> Masks:
        """Those at `indices`, in that order."""
        return Masks(self.size, [self.corners[i] for i in indices], [self.crops[i] for i in indices])


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
    masks: Masks | None = None
    """One per box, in pixels of the original picture."""
    keypoints: Tensor | None = None
    """[N, K, 3] float32: x, y in pixels of the original picture, and score."""
    size: tuple[int, int] | None = None
    """(height, width) in pixels of the original picture; None where only the whole was asked about."""
    id: int | None = None
    """The picture's number in its data set's own file, if it came from one."""
    semantic: Tensor | None = None
    """[H, W] int64."""
    path: str = ""
    """Where the picture came from, if it had a path."""

    def take(self, indices: Sequence[int]) -> Prediction:
        """The instances at `indices`, in that order; what is said of the whole picture stays."""
        chosen = list(indices)
        picked = {
            name: value[chosen]
            for name in ("boxes", "labels", "scores", "keypoints")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, masks=self.masks.take(chosen) if self.masks is not None else None, **picked)

    def top(self, count: int = 5) -> list[tuple[int, float]]:
        """The `count` likeliest classes of the whole picture as (class index, probability), falling."""
        assert self.probabilities is not None, "this prediction has no class probabilities"
        values, indices = self.probabilities.topk(min(count, len(self.probabilities)))
        return list(zip(indices.tolist(), values.tolist(), strict=True))


@dataclass(frozen=True)
class Points:
    """The keypoints that every object of a data set has."""

    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...] = ()
    """Pairs of keypoints, counted from 0, that are joined by a line."""
    flip: tuple[int, ...] = ()
    """Which keypoint each becomes in the mirror, such as a left ear the right; each itself if empty."""
    sigmas: tuple[float, ...] = ()
    """How far annotators scatter around each, as COCO's object keypoint similarity (OKS) counts it."""

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> Points:
        """The inverse of `dataclasses.asdict`, also after a trip through JSON."""
        pairs = tuple((int(a), int(b)) for a, b in fields["skeleton"])
        return Points(tuple(fields["names"]), pairs, tuple(fields["flip"]), tuple(fields["sigmas"]))


COCO_PERSON = Points(
    (
        *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
        *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
        *("left_knee", "right_knee", "left_ankle", "right_ankle"),
    ),
    (
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
        *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
    ),
    (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15),
    (
        *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107),
        *(0.087, 0.087, 0.089, 0.089),
    ),
)
"""The keypoints of people in COCO, with the deviations that its evaluation uses."""


@dataclass(frozen=True)
class Frame:
    """How a picture lies in a network's input: scaled, its top left corner in the input's."""

    picture: tuple[int, int]
    """(height, width) of the picture in its own pixels."""
    scaled: tuple[int, int]
    """(height, width) it has in the input, in pixels; what lies beyond is padding."""


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes a network's input; it travels inside every checkpoint."""

    size: tuple[int, int] = (224, 224)
    """(height, width) in pixels of the input."""
    crop: float = 1.0
    """Share of the resized picture's side that the centre crop keeps, in 0..1 (timm's crop_pct)."""
    resize: str = "crop"
    """`crop` keeps the aspect ratio and cuts the centre; `squash` stretches to the size. `shortest` and `fit` keep the
    aspect ratio and lose nothing: with `shortest`, `size` is (wanted shorter side, most for the longer side), and the
    batch is padded to a multiple of `divisor`; with `fit` the picture goes into `size` and is padded to it."""
    interpolation: str = "bilinear"
    """`bilinear`, `bicubic` or `nearest`."""
    antialias: bool = True
    """Whether pictures that are made smaller are smoothed first."""
    rounding: str = "down"
    """With `shortest` and `fit`: whether the fraction of a pixel in a scaled side is dropped (`down`, as torchvision
    does) or rounded (`nearest`, as Detectron2 and MMDetection do)."""
    divisor: int = 32
    """With `shortest`: height and width of a batch are multiples of it."""
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
