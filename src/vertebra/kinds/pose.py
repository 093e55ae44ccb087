"""The keypoints of objects that are cut out by their boxes, one at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vertebra.data.augment import Transform
from vertebra.data.augment.pose import PoseAugment, PoseTransform
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.errors import VertebraError
from vertebra.files import expanded
from vertebra.kinds.coco_results import read_boxes
from vertebra.kinds.keypoint_objects import KeypointObjects
from vertebra.kinds.objects import as_prediction, with_boxes
from vertebra.metrics.evaluation import Evaluation, written
from vertebra.structures import KeypointSchema, Prediction, Preprocess, Region, Target
from vertebra.tasks import Task

ANNOTATIONS, IMAGE = "annotations", "image"
COLUMNS = ("names", "count", "pixels", "nme")
"""Of the table of keypoints."""
MARGIN = 0.25
"""Share of the longer side of an object by which the report shows more than its box."""


@dataclass
class PoseData:
    """Where the boxes of objects come from."""

    boxes: str = ANNOTATIONS
    """Boxes of the objects: `annotations`; `image`, where every image shows one object; or a file of COCO results of a
    detector, for validation images (training images have their annotated ones)."""

    def elsewhere(self) -> PoseData:
        """The options for other images than the validation images of training."""
        return self if self.boxes == IMAGE else PoseData()

    def __post_init__(self) -> None:
        if not self.boxes:
            raise VertebraError(f"data.boxes is empty; give {ANNOTATIONS}, {IMAGE} or a file of COCO results.")


class Pose(KeypointObjects):
    """Keypoints of every object, whose box is given."""

    description = "poses"
    priority = 1
    augment = PoseAugment
    no_augment = PoseAugment(0.0, 0.0, 0.0, 0.0, 0.0, 0, 0.0, 0.0)
    resize_modes = ("box",)
    options = frozenset({"threshold", "annotations", "crops", "scores", "detector", "boxes", "keypoint"})
    merges_views = False
    ranked_by = "OKS"
    eval_batch_size = 32
    tta_scales = (1.0,)
    data = PoseData
    next_command = "vertebra predict {} IMAGE --detector=DETECTOR --save=out/"

    # -- data

    def check(self, preprocess: Preprocess, augment: PoseAugment | None = None) -> None:  # type: ignore[override]
        if preprocess.resize != "box":
            raise VertebraError(f"resize is {preprocess.resize!r}, but objects are cut out by their boxes: use 'box'.")

    def transform(  # type: ignore[override]
        self, augment: PoseAugment, preprocess: Preprocess, keypoints: KeypointSchema | None = None
    ) -> Transform:
        return PoseTransform(augment, preprocess, keypoints)

    def samples(
        self,
        catalogue: Catalogue,
        split: str,
        task: Task,
        *,
        training: bool = False,
        seed: int = 0,
        data: PoseData | None = None,
        load: Callable[[str], Task] | None = None,
    ) -> list[Sample]:
        """A sample for each object that has a labelled keypoint, or for each box of a detector.

        Raises:
            VertebraError: if there are none, or the file of boxes does not fit the images.
        """
        boxes = (data or PoseData()).boxes
        if boxes not in (ANNOTATIONS, IMAGE) and not training:
            return self._detected(catalogue, split, expanded(boxes))
        left_out: Counter[str] = Counter()
        samples = []
        for image in catalogue.split(split):
            regions = []
            target = image.target
            for region in _regions(target):
                if reason := _reason(target, region):
                    left_out[reason] += 1
                else:
                    regions.append(region)
            if boxes == IMAGE and regions:
                if len(regions) > 1:
                    left_out["in images with several"] += len(regions)
                    continue
                regions = [replace(regions[0], box=_whole(image))]
            samples += [image.showing(region) for region in regions]
        if not samples:
            reasons = _listed(left_out)
            raise VertebraError(
                f"the {split} split of {catalogue.path} has no object with keypoints"
                + (f": of its objects, {reasons} are left out." if reasons else ".")
            )
        catalogue.notes.append(f"{split}: {len(samples)} objects with keypoints{_left_out(left_out)}")
        return samples

    def noun(self, samples: Sequence[Sample]) -> str:
        return "objects" if samples and samples[0].region else self.items

    def _detected(self, catalogue: Catalogue, split: str, path: Path) -> list[Sample]:
        """A sample for each box in a file of COCO results; of images without any, one whose score is 0."""
        samples: list[Sample] = []
        images = catalogue.split(split)
        left_out: Counter[str] = Counter()
        for image, prediction in zip(images, read_boxes(path, catalogue, split), strict=True):
            detections = prediction.regions()
            if len(detections) < len(prediction):
                left_out["without an area"] += len(prediction) - len(detections)
            regions = []
            for region in detections:
                if reason := _reason_of_detection(region, image):
                    left_out[reason] += 1
                else:
                    regions.append(region)
            if not regions:
                regions = [Region(_whole(image), score=0.0)]  # so that the objects of the image count as missed
            samples += [image.showing(region) for region in regions]
        count = sum(sample.region is not None and sample.region.score > 0 for sample in samples)
        catalogue.notes.append(f"{split}: {count} boxes of {path.name}{_left_out(left_out)}")
        return samples

    # -- evaluation

    def sections(self, evaluation: Evaluation, samples: Sequence[Sample]) -> Iterator[tuple[str, str]]:
        yield from super().sections(evaluation, samples)
        if table := evaluation.metrics.get("keypoints"):
            yield "Keypoints", _table(table)
        if evaluation.rows and "oks" in evaluation.rows[0]:
            yield "Most wrong", self.most_wrong(evaluation, samples)

    def report_view(self, image: Tensor, prediction: Prediction, sample: Sample) -> tuple[Tensor, Prediction]:
        """The surroundings of the object."""
        x1, y1, x2, y2 = window = _window(sample, image)
        return image[:, y1:y2, x1:x2], _shifted(prediction, window)

    def error_text(self, row: Mapping[str, Any], classes: Sequence[str]) -> str:
        pixels = "" if row["pixels"] is None else f", mean error {row['pixels']:.1f} pixels"
        return f"<b>OKS {row['oks']:.3f}</b>{pixels}"


def _regions(target: Target) -> list[Region]:
    """The region of each annotated object."""
    boxes = with_boxes(as_prediction(target)).boxes
    assert boxes is not None
    labels = [0] * len(boxes) if target.labels is None else target.labels.tolist()
    return [
        Region((box[0], box[1], box[2], box[3]), 1.0, label, i)
        for i, (box, label) in enumerate(zip(boxes.tolist(), labels, strict=True))
    ]


def _reason(target: Target, region: Region) -> str:
    """Why an object is left out; empty if it is not."""
    assert target.keypoints is not None
    if target.crowd is not None and target.crowd[region.index]:
        return "crowds"
    if not (target.keypoints[region.index, :, 2] > 0).any():
        return "without a labelled keypoint"
    sides = _sides(region)
    return "" if all(map(math.isfinite, sides)) and min(sides) > 0 else "whose box has no area"


def _reason_of_detection(region: Region, image: Sample) -> str:
    """Why a box of a detector is left out; empty if it is not."""
    if region.score <= 0:
        return "without a positive score"
    (x1, y1, x2, y2), (_, _, width, height) = region.box, _whole(image)
    return "" if x1 < width and y1 < height and x2 > 0 and y2 > 0 else "outside their image"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def _left_out(counts: Counter[str]) -> str:
    """The end of a note; empty if nothing is left out."""
    return f"; left out: {_listed(counts)}" if counts else ""


def _sides(region: Region) -> tuple[float, float]:
    x1, y1, x2, y2 = region.box
    return x2 - x1, y2 - y1


def _whole(image: Sample) -> tuple[float, float, float, float]:
    size = image.size
    if size is None:
        raise VertebraError(f"{image.target.path}: the size of the image is not known without reading it.")
    return 0.0, 0.0, float(size[1]), float(size[0])


def _window(sample: Sample, image: Tensor) -> tuple[int, int, int, int]:
    """The part of an image [C, H, W] that the report shows of a sample: x1, y1, x2, y2."""
    height, width = image.shape[1:]
    if sample.region is None:
        return 0, 0, width, height
    x1, y1, x2, y2 = sample.region.box
    more = MARGIN * max(x2 - x1, y2 - y1) + 1
    left, top = (max(0, min(side - 1, math.floor(value - more))) for value, side in ((x1, width), (y1, height)))
    right, bottom = (math.ceil(value + more) for value in (x2, y2))
    return left, top, max(left + 1, min(width, right)), max(top + 1, min(height, bottom))


def _shifted(prediction: Prediction, window: Sequence[int]) -> Prediction:
    """The prediction in pixels of a window of its image."""
    offset = torch.tensor([float(window[0]), float(window[1])])
    assert prediction.boxes is not None
    boxes = prediction.boxes - offset.repeat(2)
    keypoints = prediction.keypoints
    if keypoints is not None:
        keypoints = torch.cat((keypoints[..., :2] - offset, keypoints[..., 2:]), -1)
    return replace(prediction, boxes=boxes, keypoints=keypoints)


def _table(keypoints: Mapping[str, Sequence[Any]]) -> str:
    """HTML of the errors of each keypoint."""
    head = "<tr><th>keypoint</th><th>labelled</th><th>mean error in pixels</th><th>NME</th></tr>"
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{count}</td><td>{written(pixels)}</td><td>{written(nme, 4)}</td></tr>"
        for name, count, pixels, nme in zip(*(keypoints[key] for key in COLUMNS), strict=True)
    )
    return f"<table>{head}{rows}</table>"


KIND = Pose()
