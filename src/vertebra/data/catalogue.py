"""What a dataset holds: its images by split, their ground truth, and the names of the classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vertebra.data.label_maps import LabelMap, paint
from vertebra.data.segments import Segment, crop
from vertebra.errors import VertebraError, escaped, nearest
from vertebra.images import StoredImage, image_size
from vertebra.structures import IGNORED, KeypointSchema, Masks, Region, Target

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Every split, and the folder names and CSV values that stand for it."""
SPLIT_NAMES = {alias: split for split, aliases in SPLITS.items() for alias in aliases}
"""The split that a folder name or CSV value stands for."""


@dataclass(frozen=True, repr=False)
class Sample:
    """One image, by its place in a file or as pixels [C, H, W] uint8, and its ground truth."""

    image: Path | StoredImage | Tensor
    target: Target
    """Everything but the masks, in pixels of the image as it is read, upright."""
    segments: tuple[Segment, ...] = ()
    """The mask of each instance as the dataset writes it, where masks are needed and there are any; decoded by
    `load_target`."""
    annotation_ids: tuple[int, ...] = ()
    """The number of each instance in the dataset's own file: COCO's id, or the object's or line's number, from 1."""
    label_map: LabelMap | None = None
    """The file of the label map, read by `load_target`."""
    painted: bool = False
    """Whether the label map is painted from the masks: 0 is the background, classes count from 1."""
    foreground: bool = False
    """Whether all classes of the label map but the first are one, the foreground."""
    region: Region | None = None
    """The object that the sample is of, where each object of an image is one."""

    def __repr__(self) -> str:
        return f"Sample({self.target})"

    @property
    def label(self) -> int:
        """Class of the whole image."""
        assert self.target.label is not None
        return int(self.target.label)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels; read from the image file's header if the dataset does not give it. None where
        only reading the image tells it.

        Raises:
            UnreadableImage: if the header cannot be read.
        """
        if self.target.size is not None:
            return self.target.size
        if isinstance(self.image, Tensor):
            return self.image.shape[-2], self.image.shape[-1]
        return image_size(self.image)

    @property
    def name(self) -> str:
        """Names the image in messages; drawn ones have no path."""
        return self.target.path or f"image {self.target.id}"

    def where(self, i: int) -> str:
        """Names instance `i` in messages."""
        name = f"annotation {self.annotation_ids[i]}" if i < len(self.annotation_ids) else f"object {i + 1}"
        return f"{self.name}, {name}"

    def showing(self, region: Region) -> Sample:
        """The sample of one object of the image."""
        return replace(self, region=region)

    def load_target(self, size: tuple[int, int]) -> Target:
        """The target with its masks decoded, for the image of (height, width) `size` as it was read.

        Where the dataset has masks and no boxes, boxes and areas are computed from the masks, and masks without a
        pixel are dropped.

        Raises:
            VertebraError: if the image or a mask is of another size than annotated, or a mask cannot be decoded.
        """
        annotated = self.target.size
        if annotated is not None and annotated != tuple(size):
            turned = ", perhaps because its EXIF tag turns it" if annotated == (size[1], size[0]) else ""
            raise VertebraError(
                f"{self.target.path}: the image is {size[0]} x {size[1]} pixels, its annotations are for "
                f"{annotated[0]} x {annotated[1]} (height x width){turned}."
            )
        target = replace(self.target, size=size)
        if self.label_map is not None:
            target = replace(target, semantic=self.label_map.load(size))
        if self.painted:
            objects = replace(self, painted=False, foreground=False).load_target(size)
            target = Target(semantic=paint(objects), size=size, id=objects.id, path=objects.path)
        if self.foreground and target.semantic is not None:
            target.semantic = torch.where(target.semantic == IGNORED, IGNORED, target.semantic.clamp(max=1))
        if self.label_map is not None or self.painted:
            return target
        if not self.segments:
            if target.masks is None and target.labels is not None and not len(target.labels):
                return replace(target, masks=Masks(size))
            return target
        crops = [crop(segment, size, self.where(i)) for i, segment in enumerate(self.segments)]
        masks = Masks(size, [(x, y) for x, y, _ in crops], [mask for _, _, mask in crops])
        if target.boxes is None:
            kept = [i for i, mask in enumerate(masks.crops) if mask.any()]
            masks = masks.take(kept)
            target = replace(
                target,
                boxes=masks.boxes(),
                areas=masks.areas(),
                labels=None if target.labels is None else target.labels[kept],
                crowd=None if target.crowd is None else target.crowd[kept],
            )
        return replace(target, masks=masks)


class Reader:
    """Reads the image and the target of a sample together, by its number."""

    last: tuple[int, Tensor, Target] | None = None
    """The number, image and target that were read last."""

    def read(self, index: int) -> tuple[Tensor, Target]:
        """Image [C, H, W] uint8 and target."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Names the sample where it is shown."""
        raise NotImplementedError

    def size(self, index: int) -> tuple[int, int] | None:
        """(height, width) in pixels; None where only reading tells it."""
        return None

    def image(self, index: int) -> Tensor:
        """The image, which is read anew, because it may differ each time."""
        self.last = (index, *self.read(index))
        return self.last[1]

    def target(self, index: int) -> Target:
        """The target: if the sample was read last, the one that belongs to that image."""
        if self.last is None or self.last[0] != index:
            self.last = (index, *self.read(index))
        return self.last[2]


class ReadSample(Sample):
    """A sample of a Reader. Each access to `image` reads it anew; `target` is the one read with it."""

    _reader: Reader
    _index: int

    def __new__(cls, *fields: Any, **named: Any) -> Sample:  # type: ignore[misc]
        """An ordinary Sample, so that `dataclasses.replace` works; `of` makes those of readers."""
        return Sample(*fields, **named)

    @classmethod
    def of(cls, reader: Reader, index: int, region: Region | None = None) -> ReadSample:
        """The sample of that number, or of one object of it."""
        sample: ReadSample = object.__new__(cls)
        sample.__dict__.update(_reader=reader, _index=index, segments=(), annotation_ids=(), region=region)
        return sample

    def showing(self, region: Region) -> ReadSample:
        return ReadSample.of(self._reader, self._index, region)

    @property
    def image(self) -> Tensor:
        return self._reader.image(self._index)

    @property
    def target(self) -> Target:
        return self._reader.target(self._index)

    @property
    def size(self) -> tuple[int, int] | None:
        return self._reader.size(self._index)

    def __repr__(self) -> str:
        return f"Sample({self._reader.name(self._index)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return ReadSample.of, (self._reader, self._index, self.region)


@dataclass(repr=False)
class Catalogue:
    """A dataset that is listed but not yet read."""

    path: str
    format: str
    """Name of its file in data/formats."""
    classes: tuple[str, ...]
    splits: dict[str, list[Sample]]
    notes: list[str] = field(default_factory=list)
    """What a user should know: how the data was split, what was ignored."""
    problems: list[str] = field(default_factory=list)
    """One sentence per annotation or image that is skipped because it is wrong, naming file and id."""
    has: frozenset[str] = frozenset({"label"})
    """Fields of Target that the data can fill: `label`, `tags`, `boxes`, `masks`, `keypoints`, `semantic`, `text`."""
    category_ids: tuple[int, ...] = ()
    """The number of each class in the dataset's own files, which may have gaps; 1, 2, ... if empty."""
    keypoints: KeypointSchema | None = None
    """The keypoints of each object, where the data has any."""
    painted: bool = False
    """Whether label maps are painted from masks."""
    items: str = "images"
    """What the samples are, in the plural, as the kinds that read them call them."""

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(samples)} {split}" for split, samples in self.splits.items())
        return f"Catalogue({escaped(self.path)}: {counts} {self.items}, {len(self.classes)} classes)"

    def split(self, name: str) -> list[Sample]:
        """The samples of a split; VertebraError if it is not there or empty."""
        if not self.splits.get(name):
            sizes = ", ".join(f"{split} ({len(samples)})" for split, samples in self.splits.items())
            raise VertebraError(f"{self.path} has no {self.items} in its {name} split; it has {sizes}.")
        return self.splits[name]

    def skipped(self, *, strict: bool) -> list[str]:
        """The problems of the dataset's own files; VertebraError with the first if `strict`."""
        if strict and self.problems:
            raise VertebraError(f"{self.problems[0]} (--strict lets nothing be skipped)")
        return self.problems

    def counts(self, name: str, labels_of: Callable[[Target], Tensor]) -> list[int]:
        """How often each class occurs in a split, in the order of the classes.

        Args:
            name: of the split; one that is not there counts as empty.
            labels_of: the classes [N] or [] int64 to count in a target.
        """
        count: Counter[int] = Counter()
        for sample in self.splits.get(name, []):
            count.update(labels_of(sample.target).reshape(-1).tolist())
        return [count[i] for i in range(len(self.classes))]


def describe_fields(names: Iterable[str], items: str = "images") -> str:
    """Fields of Target in words, such as `boxes and masks`, in their order in Target; `items` are the samples."""
    chosen = set(names)
    whole = "whole images" if items == "images" else items
    words = {"label": f"classes of {whole}", "semantic": "label maps", "text": "captions"}
    if items != "images":
        words["text"] = "pairs of sentences"
    return " and ".join(words.get(entry.name, entry.name) for entry in fields(Target) if entry.name in chosen)


def map_classes(samples: Iterable[Sample], classes: tuple[str, ...], model_classes: tuple[str, ...]) -> list[Sample]:
    """The samples with labels renumbered from the data's `classes` to the model's.

    Raises:
        VertebraError: if a class of the data is not one of the model's.
    """
    if classes == model_classes:
        return list(samples)
    index = {name: i for i, name in enumerate(model_classes)}
    for name in classes:
        if name not in index:
            raise VertebraError(
                f"the data has a class {name!r} that the model does not know.{nearest(name, model_classes)}"
            )
    numbers = torch.tensor([index[name] for name in classes])
    return [
        replace(
            sample,
            target=replace(
                sample.target,
                label=_renumber(sample.target.label, numbers),
                tags=_renumber(sample.target.tags, numbers),
                labels=_renumber(sample.target.labels, numbers),
            ),
            region=sample.region and replace(sample.region, label=int(numbers[sample.region.label])),
            label_map=None if sample.label_map is None else sample.label_map.renumbered(numbers, model_classes),
        )
        for sample in samples
    ]


def check_keypoints(catalogue: Catalogue, schema: KeypointSchema, owner: str = "the model") -> None:
    """Raises if the data's keypoints differ from the `schema` of `owner` in name or order; numbers match any names."""
    assert catalogue.keypoints is not None
    names = catalogue.keypoints.names
    unnamed = any(listed == tuple(map(str, range(len(listed)))) for listed in (names, schema.names))
    if len(names) == len(schema.names) and (names == schema.names or unnamed):
        return
    known, present = set(schema.names), set(names)
    parts = {
        f"{owner} does not know": [name for name in names if name not in known],
        "the data lacks": [name for name in schema.names if name not in present],
    }
    differences = [f"{what} {', '.join(map(escaped, listed))}" for what, listed in parts.items() if listed]
    reason = "; ".join(differences) or f"they stand in another order: {', '.join(map(escaped, names))}"
    raise VertebraError(
        f"{catalogue.path} has {len(names)} keypoints, {owner} {len(schema.names)}, and they must be the same in the "
        f"same order: {reason}."
    )


def _renumber(labels: Tensor | None, numbers: Tensor) -> Tensor | None:
    return None if labels is None else numbers[labels]
