"""Torch Datasets of (image, Target), which users write, as data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vertebra.data.annotations import box_of_keypoints, check_class_names
from vertebra.data.catalogue import SPLITS, Catalogue, Reader, ReadSample, Sample
from vertebra.data.geometry import ROWS, Example
from vertebra.errors import VertebraError, first_line, one_of, shown
from vertebra.images import UnreadableImage, read_image
from vertebra.structures import IGNORED, KeypointSchema, Masks, Target

SHAPES = {"boxes": (4,), "labels": (), "keypoints": (-1, 3), "crowd": (), "areas": ()}
"""Shape of one row of each field of ROWS; -1 is any number."""


def catalogue_of(data: Dataset | Mapping[str, Dataset], fields: Collection[str] | None = None) -> Catalogue:
    """Lists the items of a Dataset without reading them, except the first.

    An item is (image, Target). The image is a PIL image, an array [H, W] or [H, W, C], or a tensor [C, H, W], of uint8,
    uint16 or floats in 0..1. The Target's masks are `Masks` or [N, H, W] bool; boxes and areas that are missing are
    computed from them, or from the keypoints.

    Class names are the Dataset's attribute `classes`. Without it every item is read once, and the classes are named by
    their numbers. Keypoint names are its attribute `keypoints`, a KeypointSchema, or else numbers.

    Args:
        data: a Dataset with a length, which is the train split, or one for each of `train`, `val` and `test`.
        fields: the fields of Target that are needed; None for all. Masks are converted only if they are.

    Raises:
        VertebraError: if a Dataset has no length or no items, or an item is not (image, Target) as described; the
            sentence gives its index.
    """
    datasets = dict(data) if isinstance(data, Mapping) else {"train": data}
    if not datasets:
        raise VertebraError("data is an empty mapping; it needs a Dataset for each split, such as train and val.")
    readers = [Items(split, dataset, fields) for split, dataset in datasets.items()]
    splits: dict[str, list[Sample]] = {
        reader.split: [ReadSample.of(reader, i) for i in range(len(reader))] for reader in readers
    }
    first = next(_targets(readers))
    has = {
        name
        for name in ("label", "tags", "boxes", "masks", "keypoints", "semantic", "text")
        if getattr(first, name) is not None
    }
    keypoints = None
    if first.keypoints is not None:
        keypoints = _attribute(readers[0].dataset, "keypoints")
        if not isinstance(keypoints, KeypointSchema):
            keypoints = KeypointSchema(tuple(map(str, range(first.keypoints.shape[1]))))
    classes = _attribute(readers[0].dataset, "classes")
    if classes is None:
        numbers = torch.cat([_class_numbers(target) for target in _targets(readers)])
        classes = range(1 + max(numbers.tolist(), default=-1))
    catalogue = Catalogue(
        type(readers[0].dataset).__name__,
        "dataset",
        check_class_names([str(name) for name in classes], f"the attribute classes of {_a(readers[0].dataset)}"),
        splits,
        has=frozenset(has),
        keypoints=keypoints,
    )
    for reader in readers:
        reader.classes = catalogue.classes
    return catalogue


class Items(Reader):
    """Reads and checks the items of one split."""

    def __init__(self, split: str, dataset: Dataset, fields: Collection[str] | None) -> None:
        one_of("split", split, SPLITS)
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise VertebraError(
                f"the {split} split is {_a(dataset)} without a length or without items by index; data is a path or a "
                "map-style torch Dataset of (image, Target)."
            )
        if not len(dataset):
            raise VertebraError(f"the {split} split, {_a(dataset)}, has no items.")
        self.split = split
        self.dataset = dataset
        self.fields = fields
        self.classes: tuple[str, ...] = ()  # those that labels are checked against, once they are known

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        return f"item {index} of {self.split}"

    def read(self, index: int) -> tuple[Tensor, Target]:
        """Image [C, H, W] uint8 and target of an item.

        Raises:
            UnreadableImage: if the Dataset raises OSError, as for a file that cannot be decoded.
            VertebraError: if it raises something else, or the item is not as it should be.
        """
        where = f"item {index} of the {self.split} split"
        try:
            item: Any = self.dataset[index]
        except OSError as error:
            raise UnreadableImage(f"{where}: cannot be read ({first_line(error)}).") from error
        except Exception as error:  # a user's code can raise anything
            raise VertebraError(f"{where}: {type(error).__name__}: {first_line(error)}") from error
        if not (isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[1], Target)):
            types = ", ".join(type(part).__name__ for part in item) if isinstance(item, tuple | list) else ""
            raise VertebraError(
                f"{where} is {f'({types})' if types else _a(item)}; it must be (image, Target), with a Target of "
                "vertebra.structures, such as Target(label=torch.tensor(3))."
            )
        try:
            image = read_image(item[0], _channels(item[0]))
            return image, checked_target(item[1], (image.shape[-2], image.shape[-1]), self.fields, self.classes)
        except UnreadableImage as error:
            raise UnreadableImage(f"{where}: {error}") from error
        except VertebraError as error:
            raise VertebraError(f"{where}: {error}") from error


def checked_target(
    target: Target, size: tuple[int, int], fields: Collection[str] | None = None, classes: Sequence[str] = ()
) -> Target:
    """The target in the form in which samples carry it.

    Args:
        target: of an image of (height, width) `size`.
        fields: the fields of Target that are needed; None for all. Masks are converted only if they are.
        classes: those that labels are checked against, if they are known.

    Raises:
        VertebraError: if a field is not as `catalogue_of` describes it.
    """
    target = replace(target, size=size)
    if fields is not None and "masks" not in fields and target.boxes is not None:
        target.masks = None
    if target.masks is not None:
        target = _with_masks(target, target.masks, size)
    count = None if target.boxes is None else len(target.boxes)
    for name in ROWS:
        rows = getattr(target, name)
        if rows is not None:
            count = len(rows) if count is None else count
            _check_shape(name, rows, (count, *SHAPES[name]))
            if name != "boxes" and not bool(torch.isfinite(rows).all()):
                raise VertebraError(f"its {name} have a number that is not finite.")
    if target.keypoints is not None:
        target = _with_keypoints(target, target.keypoints.float(), size)
    if target.boxes is not None:
        if target.labels is None:
            raise VertebraError("it has boxes without labels, the class of each.")
        sides = target.boxes[:, 2:] - target.boxes[:, :2]
        valid = ((sides > 0) & sides.isfinite()).all(1)
        if not bool(valid.all()):
            index = int(valid.logical_not().nonzero()[0])
            raise VertebraError(f"box {index} is {target.boxes[index].tolist()}; x1 < x2 and y1 < y2 must hold.")
        target.boxes = target.boxes.float()
        target.crowd = torch.zeros(len(sides), dtype=torch.bool) if target.crowd is None else target.crowd.bool()
        target.areas = sides.prod(1).float() if target.areas is None else target.areas.float()
    if target.label is not None:
        _check_shape("label", target.label, (-1,) if getattr(target.label, "ndim", 0) else ())
    if target.tags is not None:
        _check_shape("tags", target.tags, (-1,))
    if target.semantic is not None:
        _check_shape("semantic", target.semantic, size)
    for text in () if target.text is None else (target.text, *target.references):
        if not isinstance(text, str) or not text.strip():
            raise VertebraError(f"a caption is {shown(text)}; it must be a sentence.")
    for name in ("label", "tags", "labels", "semantic"):
        values = getattr(target, name)
        if values is not None and (name != "label" or values.ndim == 0):
            if values.is_floating_point() or values.dtype == torch.bool:
                raise VertebraError(f"its {name} is {values.dtype}; classes are int64.")
            setattr(target, name, values.long())
    for number in _class_numbers(target).tolist():
        if number < 0 or (classes and number >= len(classes)):
            expected = f"from 0 to {len(classes) - 1}" if classes else "0 or more"
            raise VertebraError(f"it has class {number}; classes are {expected}.")
    if target.tags is not None:
        target.tags = target.tags.unique()
    if target.semantic is not None:
        target.semantic = target.semantic.to(torch.uint8)
    return target


def _targets(readers: Sequence[Items]) -> Iterator[Target]:
    """The targets of all readable items; the error of the first item if none can be read."""
    first_error = None
    count = 0
    for reader in readers:
        for index in range(len(reader)):
            try:
                yield reader.read(index)[1]
                count += 1
            except UnreadableImage as error:
                first_error = first_error or error
    if first_error is not None and not count:
        raise first_error


def _with_masks(target: Target, masks: Any, size: tuple[int, int]) -> Target:
    """The target with its masks as Masks; where it has no boxes, with theirs, and without instances of no pixel."""
    if isinstance(masks, Tensor):
        if masks.ndim != 3 or masks.dtype != torch.bool:
            raise VertebraError(
                f"its masks are {list(masks.shape)} {masks.dtype}; they must be [N, H, W] bool, or Masks."
            )
        masks = Masks.from_dense(masks) if len(masks) else Masks((masks.shape[1], masks.shape[2]))
    if not isinstance(masks, Masks):
        raise VertebraError(f"its masks are {_a(masks)}; they must be an [N, H, W] bool tensor, or Masks.")
    if masks.size != size:
        raise VertebraError(
            f"its masks are for {masks.size[0]} x {masks.size[1]} pixels, the image has {size[0]} x {size[1]}."
        )
    areas = masks.areas() if target.areas is None else target.areas
    if target.boxes is not None:
        if len(masks) != len(target.boxes):
            raise VertebraError(f"it has {len(masks)} masks and {len(target.boxes)} boxes.")
        return replace(target, masks=masks, areas=areas)
    if target.labels is None or len(target.labels) != len(masks):
        raise VertebraError(f"it has {len(masks)} masks; labels must hold the class of each.")
    cropped = Masks(size)
    for (x, y), mask in zip(masks.corners, masks.crops, strict=True):
        cropped.append(x, y, mask)
    target = replace(target, boxes=cropped.boxes(), areas=areas, masks=cropped)
    return Example(torch.empty(0, *size), target).take(masks.areas() > 0).target


def _with_keypoints(target: Target, keypoints: Tensor, size: tuple[int, int]) -> Target:
    """The target with its keypoints as floats; where it has no boxes, with those around them, and without instances
    that have no labelled keypoint."""
    visibility = keypoints[..., 2]
    if not bool(torch.isin(visibility, torch.arange(3.0)).all()):
        raise VertebraError(
            "its keypoints have a visibility that is not 0 (not labelled), 1 (occluded) or 2 (visible)."
        )
    target = replace(target, keypoints=keypoints)
    if target.boxes is not None:
        return target
    if target.labels is None:
        raise VertebraError("it has keypoints without labels, the class of each object.")
    target = Example(torch.empty(0, *size), target).take((visibility > 0).any(1)).target
    assert target.keypoints is not None
    around = [box_of_keypoints(points.flatten().tolist(), size) for points in target.keypoints]
    boxes, areas = torch.tensor([box for box, _ in around]).reshape(-1, 4), torch.tensor([area for _, area in around])
    return replace(target, boxes=boxes, areas=areas if target.areas is None else target.areas)


def _check_shape(name: str, values: Any, shape: tuple[int, ...]) -> None:
    """Raises if a field is not a tensor of that shape, in which -1 is any number."""
    if not isinstance(values, Tensor):
        raise VertebraError(f"its {name} is {_a(values)}; it must be a tensor.")
    if len(values.shape) != len(shape) or any(b not in (-1, a) for a, b in zip(values.shape, shape)):
        expected = ", ".join("K" if side == -1 else str(side) for side in shape)
        raise VertebraError(f"its {name} is {list(values.shape)}; it must be [{expected}].")


def _channels(image: Any) -> int:
    """Channels to read an image with: as many as it has, without transparency and palettes of files."""
    if isinstance(image, Image.Image):
        return 1 if image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I") else 3
    if isinstance(image, np.ndarray):
        return image.shape[2] if image.ndim == 3 else 1
    return len(image) if isinstance(image, Tensor) and image.ndim == 3 else 3


def _class_numbers(target: Target) -> Tensor:
    """The class numbers in a target, [M] int64: of image and instances, or else of the label map."""
    if target.label is not None and target.label.ndim == 1:
        return torch.tensor([len(target.label) - 1])  # a soft label
    values = [value.reshape(-1) for value in (target.label, target.tags, target.labels) if value is not None]
    if not values and target.semantic is not None:
        values = [target.semantic[target.semantic != IGNORED]]
    return torch.cat(values).unique() if values else torch.zeros(0, dtype=torch.int64)


def _attribute(dataset: Any, name: str) -> Any:
    """An attribute of a Dataset, or of the one that it is a part of, as torch's Subset is; None if neither has it."""
    while not hasattr(dataset, name) and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return getattr(dataset, name, None)


def _a(value: Any) -> str:
    """The type of a value with its article."""
    name = type(value).__name__
    return f"an {name}" if name[0].lower() in "aeio" else f"a {name}"
