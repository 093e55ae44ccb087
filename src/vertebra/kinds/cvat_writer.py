"""CVAT's XML 1.1 for images, with the images: boxes, masks or skeletons; masks of label maps; tags of whole images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from torch import Tensor

from vertebra.kinds.writers import LABELLED, WriterOptions, check_text, open_text, save_original
from vertebra.structures import Instance, Prediction

CONTENTS = frozenset({"objects", "tags", "map"})
PLACE = "annotations"
"""Folder of the images and their file."""


class CvatWriter:
    """annotations/annotations.xml, and annotations/NAME.* for each image, NAME being that of its drawing.

    Keypoints below LABELLED are outside, but occluded in an object that has no others.
    """

    files: tuple[str, ...] = (f"{PLACE}/",)

    def __init__(self, folder: Path, options: WriterOptions) -> None:
        check_text(options.classes)
        self.folder, self.options = folder / PLACE, options
        self._images = 0

    def __enter__(self) -> CvatWriter:
        self.folder.mkdir(exist_ok=True)
        with ExitStack() as stack:
            self._file = open_text(stack, self.folder / "annotations.xml")
            self._close = stack.pop_all()
        self._file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        self._write(self._meta())
        return self

    def add(self, prediction: Prediction, number: int, drawn: str) -> None:
        name = save_original(prediction, drawn, self.folder, self.options)
        assert prediction.size is not None
        height, width = prediction.size
        image = Element("image", id=str(self._images), name=name, width=str(width), height=str(height))
        for element in self._parts(prediction):
            image.append(element)
        self._images += 1
        self._write(image)

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            self._file.write("</annotations>\n")
        return self._close.__exit__(*error)

    def _write(self, element: Element) -> None:
        ElementTree.indent(element)
        self._file.write(ElementTree.tostring(element, encoding="unicode") + "\n")

    def _meta(self) -> Element:
        """The labels of the task, with the keypoints of each class."""
        meta = Element("meta")
        labels = SubElement(SubElement(meta, "task"), "labels")
        keypoints = self.options.keypoints
        for name in self.options.classes[int(self.options.background) :]:
            _label(labels, name, "tag" if self.options.tags else "any" if keypoints is None else "skeleton")
            for point in () if keypoints is None else keypoints.names:
                SubElement(_label(labels, point, "points"), "parent").text = name
        return meta

    def _parts(self, prediction: Prediction) -> Iterator[Element]:
        """What an image holds."""
        if self.options.tags is not None:
            for label in self.options.tags(prediction):
                yield Element("tag", label=self.options.classes[label], source="auto")
        elif self.options.label_map is not None:
            labels = self.options.label_map(prediction)
            for label in range(int(self.options.background), len(self.options.classes)):
                if (mask := labels == label).any():
                    rows, columns = (mask.any(dim).nonzero()[:, 0] for dim in (1, 0))
                    (top, bottom), (left, right) = rows.aminmax(), columns.aminmax()
                    crop = mask[top : bottom + 1, left : right + 1]
                    yield _mask(self._about(label), crop, int(left), int(top))
        else:
            yield from map(self._shape, prediction)

    def _about(self, label: int) -> dict[str, str]:
        return {"label": self.options.classes[label], "source": "auto", "occluded": "0", "z_order": "0"}

    def _shape(self, instance: Instance) -> Element:
        assert instance.box is not None
        assert instance.label is not None
        masks, keypoints = instance.prediction.masks, instance.keypoints
        about = self._about(instance.label)
        if masks is not None and masks.crops[instance.index].any():
            left, top = masks.corners[instance.index]
            return _mask(about, masks.crops[instance.index], int(left), int(top))
        if keypoints is not None and self.options.keypoints is not None:
            skeleton = Element("skeleton", about)
            labelled = bool((keypoints[:, 2] >= LABELLED).any())
            for name, (x, y, score) in zip(self.options.keypoints.names, keypoints.tolist(), strict=True):
                outside = str(int(labelled and score < LABELLED))
                of_point = {"label": name, "source": "auto", "outside": outside, "occluded": str(int(not labelled))}
                SubElement(skeleton, "points", of_point, points=f"{x:.2f},{y:.2f}")
            return skeleton
        corners = zip(("xtl", "ytl", "xbr", "ybr"), instance.box, strict=True)
        return Element("box", about, **{key: f"{value:.2f}" for key, value in corners})


def _mask(about: dict[str, str], crop: Tensor, left: int, top: int) -> Element:
    """A mask [h, w] bool at a place in the image."""
    place = {"left": left, "top": top, "width": crop.shape[1], "height": crop.shape[0]}
    runs = ", ".join(map(str, run_lengths(crop)))
    return Element("mask", about, rle=runs, **{key: str(value) for key, value in place.items()})


def _label(labels: Element, name: str, kind: str) -> Element:
    label = SubElement(labels, "label")
    SubElement(label, "name").text = name
    SubElement(label, "type").text = kind
    return label


def run_lengths(mask: Tensor) -> Iterator[int]:
    """Lengths of the runs of 0 and 1 in turn, 0 first, of a mask [H, W] bool, row by row."""
    values = np.concatenate(([False], mask.numpy().reshape(-1)))
    starts = np.flatnonzero(values[1:] != values[:-1])
    yield from np.diff(np.concatenate(([0], starts, [mask.numel()]))).tolist()


def writer(folder: Path, options: WriterOptions) -> CvatWriter:
    return CvatWriter(folder, options)
