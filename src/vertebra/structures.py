"""The nouns that cross folder borders: Level, Target, Prediction, Masks, KeypointSchema, Region, Frame, Preprocess."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from vertebra.errors import VertebraError, check_fields, escaped, in_range, one_of, shown
from vertebra.options import as_tuples, check_types

if TYPE_CHECKING:
    from torch import Tensor

MAX_SIDE = 16_384
"""Pixels of a side of a network's input."""
SHOWN_CLASSES = 6
"""Classes that the repr of a Prediction counts; of the others it gives the number."""


def check_classes(names: Sequence[str]) -> None:
    """Raises if names of classes are none, not different, or not text."""
    if not names:
        raise VertebraError("classes is empty; give their number or their names.")
    for name in names:
        if not isinstance(name, str) or "\0" in name or len(name) > 1000:
            raise VertebraError(f"classes has {shown(name)}; it must be a name of at most 1,000 characters.")
    if len(set(names)) < len(names):
        counts = Counter(names)
        twice = next(name for name in names if counts[name] > 1)
        raise VertebraError(f"classes has {shown(twice)} more than once; names must be different.")


DEFAULT_SIGMA = 0.05
"""Deviation of keypoint annotations where the data has none: between COCO's 0.025 and 0.107."""
IGNORED = 255
"""Value in label maps of pixels without a class."""


@dataclass(frozen=True)
class Level:
    """One feature map of a pyramid."""

    stride: int
    """Input pixels per feature cell."""
    channels: int
    """Channels of the map."""


@dataclass(repr=False)
class Target:
    """Ground truth of one image, for every task; a task reads the fields it needs, the others are None.

    Boxes are x1, y1, x2, y2 in input pixels, end exclusive.
    """

    label: Tensor | None = None
    """Class of the whole image: [] int64, or [num_classes] float32 that sums to 1 (a soft label)."""
    tags: Tensor | None = None
    """Classes of the whole image, which may have several or none: [N] int64, each once, or [num_classes] float32 in
    0..1 (soft tags)."""
    boxes: Tensor | None = None
    """[N, 4] float32."""
    labels: Tensor | None = None
    """[N] int64, class of each instance."""
    masks: Masks | None = None
    """One mask per instance."""
    keypoints: Tensor | None = None
    """[N, K, 3] float32: x, y in input pixels and visibility (0 not labelled, 1 occluded, 2 visible). As in COCO, x and
    y are indices of pixels: the centre of the first one is 0, where boxes have 0.5."""
    crowd: Tensor | None = None
    """[N] bool: a region of many objects without instance annotations (COCO's iscrowd); ignored in training and
    evaluation."""
    areas: Tensor | None = None
    """[N] float32, annotated areas in square pixels, by which COCO's metrics tell small objects from large."""
    semantic: Tensor | None = None
    """[H, W] uint8, class of each pixel; 255 is ignored."""
    text: str | None = None
    """A sentence."""
    references: tuple[str, ...] = ()
    """Other sentences that are right as well, such as further captions of the image."""
    tokens: Tensor | None = None
    """[T] int64, the ids of the sentence's tokens, the end of the sentence among them."""
    alignment: Tensor | None = None
    """[T, S] bool: the source tokens that each token of the sentence stands for, none where it is not known; T and S
    are counted in characters. Of a text with a class [1, S]: the tokens of the words that decide it."""
    size: tuple[int, int] | None = None
    """(height, width) in pixels of the image that boxes and keypoints refer to, without padding."""
    id: int | None = None
    """Image id in the dataset's own file."""
    path: str = ""
    """File of the image."""

    def __repr__(self) -> str:
        counted = next((v for v in (self.boxes, self.labels, self.masks, self.keypoints) if v is not None), None)
        parts = [] if counted is None else [f"{len(counted)} object{'s' * (len(counted) != 1)}"]
        if self.label is not None:
            parts.append(f"class {int(self.label)}" if self.label.ndim == 0 else "a soft label")
        if self.tags is not None:
            soft = self.tags.is_floating_point()
            parts.append("soft tags" if soft else f"{len(self.tags)} tag{'s' * (len(self.tags) != 1)}")
        if self.semantic is not None:
            parts.append("a label map")
        if self.text is not None:
            parts.append(escaped(shown(self.text)))
        return f"Target({_of_image(self.path, self.size, ', '.join(parts))})"


@dataclass(repr=False)
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

    def __repr__(self) -> str:
        return f"Masks({_of_image('', self.size, str(len(self)))})"

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
        import torch

        pixels = mask.cpu().numpy()  # several times as fast as torch here
        rows, columns = (np.flatnonzero(pixels.any(axis)).tolist() for axis in (1, 0))
        top, bottom = (rows[0], rows[-1] + 1) if rows else (0, 0)
        left, right = (columns[0], columns[-1] + 1) if columns else (0, 0)
        self.corners.append((x + left, y + top))
        self.crops.append(torch.from_numpy(pixels[top:bottom, left:right].copy()))  # frees the rest of the mask


@dataclass
class Alignment:
    """How much each token of a translation attends to each token of its source, or a class to each word of a text."""

    source: tuple[str, ...]
    """Text of the S source tokens."""
    target: tuple[str, ...]
    """Text of the T predicted tokens; of a class its name."""
    weights: Tensor
    """[layers, heads, T, S] float32, rows summing to 1."""

    @property
    def matrix(self) -> Tensor:
        """The mean over the heads of the last layer: [T, S]."""
        return self.weights[-1].mean(0)

    @property
    def mean(self) -> Tensor:
        """The mean over all heads and layers: [T, S]."""
        return self.weights.mean((0, 1))


@dataclass(repr=False)
class Prediction:
    """A model's answer for one image, for every task; fields that a task does not fill are None.

    Iterating gives an Instance per object, `len` their number, and an index (an integer, a slice, a list or a mask of
    bools) a Prediction of some of them. A class of the whole image is one Instance without a box.
    """

    probabilities: Tensor | None = None
    """[num_classes] float32 that sums to 1."""
    tags: Tensor | None = None
    """[num_classes] float32 in 0..1, the probability of each class of the whole image, where it may have several;
    `labels` and `scores` are those that reach their thresholds."""
    thresholds: Tensor | None = None
    """[num_classes] float32 in 0..1, the threshold of each of the `tags`."""
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
    """[H, W] uint8, class of each pixel of the original image."""
    saliency: Tensor | None = None
    """[H, W] float32 in 0..1, of each pixel of the original image."""
    logits: Tensor | None = None
    """[num_classes, h, w] float32 of a grid over the image, while predictions of its views or tiles are to be
    merged."""
    values: Tensor | None = None
    """[V] float32, numbers predicted for the image as a whole, such as a count."""
    text: str | None = None
    """A sentence."""
    tokens: Tensor | None = None
    """[T] int64, the ids of the sentence's tokens, the end of the sentence among them."""
    alignment: Alignment | None = None
    """Where the model looks in the source for each token."""
    words: tuple[str, ...] = ()
    """Text of each token of a caption."""
    looks: Tensor | None = None
    """[T, h, w] float32, how much each token of a caption looks at each cell of a grid over the image; sums to 1."""
    path: str = ""
    """File or URL of the image, if it had one; `#` and a number behind it are a video's frame, counted from 0."""
    classes: tuple[str, ...] = ()
    """Names of the classes in the order of labels and probabilities; empty where they are not known."""

    def __len__(self) -> int:
        for values in (self.boxes, self.labels, self.scores, self.masks, self.keypoints):
            if values is not None:
                return len(values)
        return int(self.probabilities is not None)

    def __iter__(self) -> Iterator[Instance]:
        return (Instance(self, index) for index in range(len(self)))

    def __getitem__(self, index: Any) -> Prediction:
        import numpy as np

        return self.take(np.atleast_1d(np.arange(len(self))[index]).tolist())

    def __repr__(self) -> str:
        if self.probabilities is not None:
            (top,) = self
            content = f"{escaped(top.name)} {top.score:.3f}"
        elif self.tags is not None:
            shown_tags = [f"{escaped(instance.name)} {instance.score:.3f}" for instance in self]
            others = len(shown_tags) - SHOWN_CLASSES
            content = ", ".join([*shown_tags[:SHOWN_CLASSES], *[f"{others} others"] * (others > 0)]) or "nothing"
        elif self.values is not None:
            content = ", ".join(f"{value:.4g}" for value in self.values[:SHOWN_CLASSES].tolist())
        elif self.semantic is not None:
            content = f"a label map of {len(self.semantic.unique())} classes"
        elif self.saliency is not None:
            content = "a saliency map"
        elif self.text is not None:
            content = escaped(shown(self.text))
        else:
            content = self._counts()
        return f"Prediction({_of_image(self.path, self.size, content)})"

    def _counts(self) -> str:
        """The number of objects of each class, the most frequent first."""
        if self.labels is None:
            return f"{len(self)} object{'s' * (len(self) != 1)}"
        counts = sorted(Counter(self.labels.tolist()).items(), key=lambda item: (-item[1], item[0]))
        parts = [f"{count} {escaped(self.name_of(label))}" for label, count in counts[:SHOWN_CLASSES]]
        if others := counts[SHOWN_CLASSES:]:
            parts.append(f"{sum(count for _, count in others)} of {len(others)} other classes")
        return ", ".join(parts) or "nothing"

    def name_of(self, label: int) -> str:
        """The name of a class; `class 3` where it has none."""
        return self.classes[label] if 0 <= label < len(self.classes) else f"class {label}"

    def take(self, indices: Sequence[int]) -> Prediction:
        """The instances at `indices`, in that order; fields of the whole image stay."""
        chosen = list(indices)
        picked = {
            name: value[chosen]
            for name in ("boxes", "labels", "scores", "keypoints")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, masks=self.masks.take(chosen) if self.masks is not None else None, **picked)

    def with_tags(self, tags: Tensor, thresholds: float | Sequence[float] | Tensor = 0.5) -> Prediction:
        """The prediction with `tags` [num_classes] float32 and those of them that reach their thresholds, one for all
        or one per class, by descending probability."""
        import torch

        limits = torch.as_tensor(thresholds, dtype=torch.float32).expand(len(tags))
        labels = torch.nonzero(tags >= limits).flatten()
        labels = labels[tags[labels].argsort(descending=True, stable=True)]
        return replace(self, tags=tags, thresholds=limits, labels=labels, scores=tags[labels])

    def regions(self) -> list[Region]:
        """The region of each detection whose box has an area."""
        assert self.boxes is not None, "this prediction has no boxes"
        assert self.scores is not None, "this prediction has no scores"
        labels = [0] * len(self) if self.labels is None else self.labels.tolist()
        rows = zip(self.boxes.tolist(), self.scores.tolist(), labels, strict=True)
        return [
            Region((x1, y1, x2, y2), score, label)
            for (x1, y1, x2, y2), score, label in rows
            if x2 > x1 and y2 > y1 and all(map(math.isfinite, (x1, y1, x2, y2)))
        ]

    def top(self, k: int = 5) -> list[tuple[int, float]]:
        """The top-k classes of the whole image as (class index, probability), descending."""
        assert self.probabilities is not None, "this prediction has no class probabilities"
        values, indices = self.probabilities.topk(min(k, len(self.probabilities)))
        return list(zip(indices.tolist(), values.tolist(), strict=True))


@dataclass(frozen=True, repr=False)
class Instance:
    """One object of a Prediction, or the top class of a whole image; what a task does not predict is None."""

    prediction: Prediction
    """All objects of the image."""
    index: int
    """Its place among them."""

    @property
    def label(self) -> int | None:
        """Class index."""
        if (probabilities := self.prediction.probabilities) is not None:
            return int(probabilities.argmax())
        return None if self.prediction.labels is None else int(self.prediction.labels[self.index])

    @property
    def name(self) -> str:
        """Class name."""
        return "" if self.label is None else self.prediction.name_of(self.label)

    @property
    def score(self) -> float | None:
        """Score, or probability of the class, in 0..1."""
        if (probabilities := self.prediction.probabilities) is not None:
            return float(probabilities.max())
        return None if self.prediction.scores is None else float(self.prediction.scores[self.index])

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """x1, y1, x2, y2 in pixels of the original image, end exclusive."""
        if self.prediction.boxes is None:
            return None
        x1, y1, x2, y2 = self.prediction.boxes[self.index].tolist()
        return x1, y1, x2, y2

    @property
    def mask(self) -> Tensor | None:
        """[H, W] bool, of the original image's size; made anew at every access."""
        return None if self.prediction.masks is None else self.prediction.masks[self.index]

    @property
    def keypoints(self) -> Tensor | None:
        """[K, 3] float32: x, y in pixels of the original image, and score."""
        return None if self.prediction.keypoints is None else self.prediction.keypoints[self.index]

    def __repr__(self) -> str:
        parts = [escaped(self.name)] if self.name else []
        parts += [] if self.score is None else [f"{self.score:.3f}"]
        if self.box is not None:
            parts.append(f"box {', '.join(f'{value:.1f}' for value in self.box)}")
        parts += [
            word for word in ("mask", "keypoints") if getattr(self.prediction, f"{word.rstrip('s')}s") is not None
        ]
        return f"Instance({', '.join(parts)})"


def _of_image(path: str, size: tuple[int, int] | None, content: str) -> str:
    """`street.jpg, 1280x720: 2 person`, without what is not known."""
    place = [escaped(path.replace("\\", "/").rpartition("/")[2])] if path else []
    place += [f"{size[1]}x{size[0]}"] if size else []
    return ": ".join(part for part in (", ".join(place), content) if part)


@dataclass(frozen=True, eq=False)
class Answer:
    """One answer of a model to be explained: a class of the image, an object, the class of pixels, or a keypoint."""

    name: str
    """For captions, such as `dog 0.87`."""
    label: int = 0
    """Class index."""
    box: tuple[float, float, float, float] | None = None
    """Of an object: x1, y1, x2, y2 in pixels, end exclusive."""
    points: Tensor | None = None
    """[N, 2] float32, of pixels: x, y of their centres; None for all pixels."""
    keypoint: int | None = None
    """Index of a keypoint of the object; None for the object as a whole."""

    def moved(self, scale: tuple[float, float], shift: tuple[float, float]) -> Answer:
        """The answer where x and y are multiplied by `scale`, then moved by `shift`."""
        (across, down), (right, below) = scale, shift
        box, points = self.box, self.points
        if box is not None:
            x1, y1, x2, y2 = box
            box = (x1 * across + right, y1 * down + below, x2 * across + right, y2 * down + below)
        if points is not None:
            points = points * points.new_tensor(scale) + points.new_tensor(shift)
        return replace(self, box=box, points=points)


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

    def __post_init__(self) -> None:
        check_types(KeypointSchema, {f.name: getattr(self, f.name) for f in fields(self)}, "keypoints.")
        count = len(self.names)
        if wrong := [pair for pair in self.skeleton if not all(0 <= index < count for index in pair)]:
            raise VertebraError(f"keypoints.skeleton joins {shown(wrong[0])}; there are {count} keypoints, from 0.")
        if self.flip_indices and sorted(self.flip_indices) != list(range(count)):
            raise VertebraError(
                f"keypoints.flip_indices is {shown(self.flip_indices)}; it must have all {count} keypoints, once each."
            )
        for i, j in enumerate(self.flip_indices):
            if self.flip_indices[j] != i:
                first, second, third = (shown(self.names[k]) for k in (i, j, self.flip_indices[j]))
                raise VertebraError(
                    f"keypoints.flip_indices makes {first} {second} in the mirror image, but {second} {third}; two "
                    "keypoints must swap, or one keep its index."
                )
        if self.sigmas and not (len(self.sigmas) == count and all(0 < sigma < math.inf for sigma in self.sigmas)):
            raise VertebraError(
                f"keypoints.sigmas is {shown(self.sigmas)}; it must be a positive number for each of the {count} "
                "keypoints."
            )

    @property
    def deviations(self) -> tuple[float, ...]:
        """`sigmas`; without, COCO's if there are 17 keypoints, else DEFAULT_SIGMA for each."""
        if self.sigmas or len(self.names) == len(COCO_PERSON.names):
            return self.sigmas or COCO_PERSON.sigmas
        return (DEFAULT_SIGMA,) * len(self.names)

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> KeypointSchema:
        """The inverse of `dataclasses.asdict`, also after a trip through JSON; all but `names` may be missing.

        Raises:
            VertebraError: naming the entry that is missing, unknown or wrong.
        """
        check_fields("keypoints", content, [f.name for f in fields(KeypointSchema)])
        if "names" not in content:
            raise VertebraError("keypoints has no names.")
        return KeypointSchema(**{key: as_tuples(value) for key, value in content.items()})


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
class Region:
    """The object of an image that a network's input shows."""

    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the image, end exclusive."""
    score: float = 1.0
    """That of its detection, in 0..1; 1 if it is annotated."""
    label: int = 0
    """Class index."""
    index: int | None = None
    """Its place among the annotated objects of the image; None if it is detected."""


@dataclass(frozen=True)
class Frame:
    """How an image lies in a network's input: resized, its top left corner in the input's; or the region of it."""

    original: tuple[int, int]
    """(height, width) of the image in its own pixels."""
    resized: tuple[int, int]
    """(height, width) of the image in the input, in pixels; the rest of the input is padding."""
    region: Region | None = None
    """With Preprocess.resize `box`: what the input shows; None for the whole image."""


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
    resized into `size` and padded to it. `box` takes the surroundings of a box: extended to the aspect ratio of `size`,
    then by `margin`, with black beyond the image."""
    interpolation: str = "bilinear"
    """`bilinear`, `bicubic`, `nearest` or `nearest-exact`."""
    antialias: bool = True
    """Whether images are smoothed when they are downsampled."""
    rounding: str = "down"
    """With `shortest` and `fit`: whether the resized side is rounded `down` (as torchvision) or to the `nearest`
    pixel (as Detectron2 and MMDetection)."""
    divisor: int = 32
    """With `shortest`: height and width of a batch are multiples of it."""
    margin: float = 1.25
    """With `box`: factor on its sides."""
    udp: bool = False
    """With `box`: whether the centres of the corner pixels coincide, not the corners of the image (unbiased data
    processing, arXiv:1911.07524)."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Subtracted per channel, on a 0..1 scale."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Divided by per channel, on a 0..1 scale."""

    @property
    def channels(self) -> int:
        return len(self.mean)

    def __post_init__(self) -> None:
        check_types(Preprocess, {f.name: getattr(self, f.name) for f in fields(self)}, "preprocess.")
        for side in self.size:
            in_range("preprocess.size", side, 1, MAX_SIDE)
        if not 0 < self.crop <= 1:
            raise VertebraError(f"preprocess.crop is {self.crop:g}; it must lie above 0 and be at most 1.")
        one_of("preprocess.resize", self.resize, ("crop", "squash", "shortest", "fit", "box"))
        one_of("preprocess.interpolation", self.interpolation, ("bilinear", "bicubic", "nearest", "nearest-exact"))
        one_of("preprocess.rounding", self.rounding, ("down", "nearest"))
        in_range("preprocess.divisor", self.divisor, 1, MAX_SIDE)
        in_range("preprocess.margin", self.margin, 0.1, 10)
        if not 1 <= len(self.mean) == len(self.std):
            raise VertebraError(
                f"preprocess.mean has {len(self.mean)} numbers and preprocess.std {len(self.std)}; each has one per "
                "input channel."
            )
        for value in self.mean:
            in_range("preprocess.mean", value, -1000, 1000)
        for value in self.std:
            in_range("preprocess.std", value, 1e-6, 1000)

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> Preprocess:
        """The inverse of `dataclasses.asdict`, also after a trip through JSON.

        Raises:
            VertebraError: naming the entry that is unknown or wrong.
        """
        check_fields("preprocess", content, [f.name for f in fields(Preprocess)])
        return Preprocess(**{key: as_tuples(value) for key, value in content.items()})
