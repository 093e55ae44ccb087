"""The nouns that cross folder borders: Level, Target, Prediction, Masks, KeypointSchema, Frame, Preprocess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Level:
    """One feature map of a pyramid."""

    stride: int
    """Input pixels per feature cell."""
    channels: int
    """Channels of the map."""


@dataclass
class Target:
    """Ground truth of one image, for every task; a task reads the fields it needs, the others are None.

    Boxes are x1, y1, x2, y2 in input pixels, end exclusive.
    """

    label: Tensor | None = None
    """Class of the whole image: [] int64, or [num_classes] float32 that sums to 1 (a soft label)."""
    boxes: Tensor | None = None
    """[N, 4] float32."""
    labels: Tensor | None = None
    """[N] int64, class of each instance."""
    masks: Masks | None = None
    """One mask per instance."""
    keypoints: Tensor | None = None
    """[N, K, 3] float32: x, y in input pixels and visibility (0 not labelled, 1 occluded, 2 visible)."""
    crowd: Tensor | None = None
    """[N] bool: a region of many objects without instance annotations (COCO's iscrowd); ignored in training and
    evaluation."""
    areas: Tensor | None = None
    """[N] float32, annotated areas in square pixels, by which COCO's metrics tell small objects from large."""
    semantic: Tensor | None = None
    """[H, W] int64, class of each pixel; 255 is ignored."""
    size: tuple[int, int] | None = None
    """(height, width) in pixels of the image that boxes and keypoints refer to, without padding."""
    id: int | None = None
    """Image id in the dataset's own file."""
    path: str = ""
    """File of the image."""


@dataclass
class Masks:
    """Instance masks, each cropped to its own rectangle: those of an image with a thousand objects do not fit into
    memory as [N, H, W]."""

    size: tuple[int, int]
    """(height, width) of the image in pixels."""
    corners: list[tuple[int, int]] = field(default_factory=list)
    """(x, y) in the image of each crop's top left pixel."""
    crops: list[Tensor] = field(default_factory=list)
    """[h, w] bool, inside the image; both sides may be 0."""

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> Tensor:
        """One mask of the image's size: [H, W] bool."""
        (x, y), crop = self.corners[index], self.crops[index]
        mask = crop.new_zeros(self.size)
        mask[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        return mask

    def dense(self) -> Tensor:
        """[N, H, W] bool."""
        import torch

        masks = torch.zeros(len(self), *self.size, dtype=torch.bool)
        for mask, (x, y), crop in zip(masks, self.corners, self.crops, strict=True):
            mask[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        return masks

    def take(self, indices: Sequence[int]) -> Masks:
        """The masks at `indices`, in that order."""
        return Masks(self.size, [self.corners[i] for i in indices], [self.crops[i] for i in indices])

    def boxes(self) -> Tensor:
        """[N, 4] float32 x1, y1, x2, y2: the rectangles of the crops, end exclusive."""
        import torch

        boxes = [
            (x, y, x + crop.shape[1], y + crop.shape[0]) for (x, y), crop in zip(self.corners, self.crops, strict=True)
        ]
        return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)

    def areas(self) -> Tensor:
        """[N] float32 pixels of each mask."""
        import torch

        return torch.tensor([float(crop.sum()) for crop in self.crops])

    @staticmethod
    def from_dense(masks: Tensor) -> Masks:
        """Masks [N, H, W] bool, each cropped to the bounding box of its pixels (to nothing if it has none)."""
        result = Masks((masks.shape[1], masks.shape[2]))
        for mask in masks:
            result.append(0, 0, mask)
        return result

    def append(self, x: int, y: int, mask: Tensor) -> None:
        """Adds a mask [h, w] bool whose top left pixel lies at (x, y), cropped to the bounding box of its pixels."""
        import numpy as np

        pixels = mask.cpu().numpy()  # whose `any` is many times faster than torch's
        rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
        if len(rows):
            top, left = int(rows[0]), int(columns[0])
            mask = mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1].clone()  # frees the rest of the mask
            x, y = x + left, y + top
        else:
            mask = mask[:0, :0].clone()
        self.corners.append((x, y))
        self.crops.append(mask)


@dataclass
class Prediction:
    """A model's answer for one image, for every task; fields that a task does not fill are None."""

    probabilities: Tensor | None = None
    """[num_classes] float32 that sums to 1."""
    embedding: Tensor | None = None
    """[width] float32, the pooled features."""
    boxes: Tensor | None = None
    """[N, 4] float32, x1, y1, x2, y2 in pixels of the original image."""
    labels: Tensor | None = None
    """[N] int64."""
    scores: Tensor | None = None
    """[N] float32 in 0..1, descending."""
    masks: Masks | None = None
    """One per box, in pixels of the original image."""
    keypoints: Tensor | None = None
    """[N, K, 3] float32: x, y in pixels of the original image, and score."""
    size: tuple[int, int] | None = None
    """(height, width) in pixels of the original image; None where the task predicts for the image as a whole."""
    id: int | None = None
    """Image id in the dataset's own file, if it came from one."""
    semantic: Tensor | None = None
    """[H, W] int64."""
    values: Tensor | None = None
    """[V] float32, numbers predicted for the image as a whole, such as a count."""
    path: str = ""
    """File of the image, if it had one."""

    def take(self, indices: Sequence[int]) -> Prediction:
        """The instances at `indices`, in that order; fields of the whole image stay."""
        chosen = list(indices)
        picked = {
            name: value[chosen]
            for name in ("boxes", "labels", "scores", "keypoints")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, masks=self.masks.take(chosen) if self.masks is not None else None, **picked)

    def top(self, k: int = 5) -> list[tuple[int, float]]:
        """The top-k classes of the whole image as (class index, probability), descending."""
        assert self.probabilities is not None, "this prediction has no class probabilities"
        values, indices = self.probabilities.topk(min(k, len(self.probabilities)))
        return list(zip(indices.tolist(), values.tolist(), strict=True))


@dataclass(frozen=True)
class KeypointSchema:
    """The keypoints that every object of a dataset has."""

    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...] = ()
    """Pairs of keypoint indices that are joined by a line."""
    flip_indices: tuple[int, ...] = ()
    """Index that each keypoint takes in the mirror image, such as left ear and right ear; the identity if empty."""
    sigmas: tuple[float, ...] = ()
    """Standard deviation of the annotations of each keypoint, as object keypoint similarity (OKS) uses it."""

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> KeypointSchema:
        """The inverse of `dataclasses.asdict`, also after a trip through JSON; all but `names` may be missing."""
        pairs = tuple((int(a), int(b)) for a, b in fields.get("skeleton", ()))
        flip_indices, sigmas = (tuple(fields.get(name, ())) for name in ("flip_indices", "sigmas"))
        return KeypointSchema(tuple(fields["names"]), pairs, flip_indices, sigmas)


COCO_PERSON = KeypointSchema(
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
"""The person keypoints of COCO, with the sigmas of its evaluation."""


@dataclass(frozen=True)
class Frame:
    """How an image lies in a network's input: resized, its top left corner in the input's."""

    original: tuple[int, int]
    """(height, width) of the image in its own pixels."""
    resized: tuple[int, int]
    """(height, width) of the image in the input, in pixels; the rest of the input is padding."""


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a network's input; stored in every checkpoint."""

    size: tuple[int, int] = (224, 224)
    """(height, width) in pixels of the input."""
    crop: float = 1.0
    """Fraction of the resized image's side that the centre crop keeps, in 0..1 (timm's crop_pct)."""
    resize: str = "crop"
    """`crop` keeps the aspect ratio and takes the centre; `squash` resizes to the size whatever the aspect ratio.
    `shortest` and `fit` keep the aspect ratio and the whole image: with `shortest`, `size` is (length of the shorter
    side, maximum of the longer side), and the batch is padded to a multiple of `divisor`; with `fit` the image is
    resized into `size` and padded to it."""
    interpolation: str = "bilinear"
    """`bilinear`, `bicubic` or `nearest`."""
    antialias: bool = True
    """Whether images are smoothed when they are downsampled."""
    rounding: str = "down"
    """With `shortest` and `fit`: whether the resized side is rounded `down` (as torchvision) or to the `nearest`
    pixel (as Detectron2 and MMDetection)."""
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
