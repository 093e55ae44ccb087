"""Patches along the boundaries of coarse masks: which of their pixels are foreground."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vertebra.data import reading
from vertebra.data.augment import Transform
from vertebra.data.augment.patches import PatchesAugment, PatchesTransform
from vertebra.data.catalogue import Catalogue, ReadSample, Sample
from vertebra.data.degrade import MIN_IOU
from vertebra.data.loader import counted_seed
from vertebra.data.patches import CoarseObject, Patches
from vertebra.data.reading import Source
from vertebra.errors import VertebraError
from vertebra.files import expanded
from vertebra.kinds.maps import ClassMaps, target_map
from vertebra.kinds.results import read_masks
from vertebra.metrics.evaluation import Evaluation
from vertebra.ops import rle
from vertebra.progress import track
from vertebra.structures import IGNORED, KeypointSchema, Masks, Prediction, Preprocess, Target
from vertebra.tasks import Task
from vertebra.viz import maps

CLASSES = ("background", "foreground")
DEGRADED = "degraded"
MAX_PATCHES = 4
"""Patches of an object that are evaluated, drawn by the seed where there are more."""
NAMED = 3
"""Masks that are left out whose names are listed."""

CoarseMasks = Callable[[int, Sample], Masks]
"""The coarse masks of an image, from its number among those of all splits."""


@dataclass
class CoarseData:
    """Where coarse masks come from."""

    coarse: tuple[str, ...] = (DEGRADED,)
    """Coarse masks: `degraded` (ground truth masks, degraded at random), a model for instance masks, which predicts on
    the images, or results with masks in any form that `vertebra refine` reads; of several, all are used."""

    def __post_init__(self) -> None:
        if not self.coarse:
            raise VertebraError(f"data.coarse is empty; give {DEGRADED}, a model or results with masks.")


class BoundaryPatches(ClassMaps):
    """Foreground or background per pixel of a patch."""

    target_field = "masks"
    description = "refined patches"
    priority = 2
    augment = PatchesAugment
    no_augment = PatchesAugment(flip=0.0, flip_vertical=0.0, rotate90=0.0, colour=0.0)
    resize_modes = ("squash",)
    options = frozenset()
    eval_batch_size = 32
    tta_scales = (1.0,)
    row_key = "coarse_iou"
    data = CoarseData
    next_command = "vertebra refine RESULTS --data.path=DATA --model={} --save=out/"
    instead = (
        "refines masks and predicts none: use `vertebra refine RESULTS --model=...`, or `--refine=...` with a model "
        "for instance masks"
    )

    @property
    def fields(self) -> frozenset[str]:
        return frozenset({"semantic", "masks"})

    def read(self, path: Source, *, seed: int = 0, missing_ok: bool = False) -> Catalogue:
        """The images with their instance masks; `samples` makes patches of them."""
        catalogue = reading.read(path, fields={"masks"}, seed=seed, missing_ok=missing_ok)
        self.check_fields(catalogue)
        return replace(catalogue, classes=CLASSES, keypoints=None)

    def transform(self, augment: Any, preprocess: Preprocess, keypoints: KeypointSchema | None = None) -> Transform:
        return PatchesTransform(augment, preprocess)

    def noun(self, samples: Sequence[Any]) -> str:
        return "patches"

    def samples(
        self,
        catalogue: Catalogue,
        split: str,
        task: Task,
        *,
        training: bool = False,
        seed: int = 0,
        data: CoarseData | None = None,
        load: Callable[[str], Task] | None = None,
    ) -> list[Sample]:
        """In training objects, of which a patch is drawn each time they are read; else patches, always the same.

        Raises:
            VertebraError: if no object has a coarse mask with an IoU above 0.5.
        """
        given = (data or CoarseData()).coarse
        sources = [_source(name, catalogue, load) for name in given if name != DEGRADED]
        config, channels = task.config, task.preprocess.channels - 1
        patches = Patches([], channels, config.patch_size, config.padding, config.nms_threshold)
        count = 0  # of coarse masks
        left_out: list[str] = []
        first = sum(len(part) for part in list(catalogue.splits.values())[: list(catalogue.splits).index(split)])
        for number, image in enumerate(track(catalogue.split(split), f"coarse masks, {split}"), first):
            try:
                size = image.size or image.target.size
                assert size is not None
                target = image.load_target(size)
                coarse = [source(number, image) for source in sources]
            except VertebraError as error:
                catalogue.problems.append(str(error))
                continue
            kept, rejected = _pairs(image, target, coarse, degraded=DEGRADED in given)
            left_out += rejected
            for item in kept:
                count += 1
                if training:
                    patches.entries.append((item, None))
                    continue
                with torch.random.fork_rng(devices=[]):
                    torch.default_generator.manual_seed(counted_seed(seed, number, count))
                    x, y, mask = item.masks(size)[1]
                    boxes = patches.boxes((x, y, mask), size)
                    chosen = boxes[torch.randperm(len(boxes))[:MAX_PATCHES].sort().values]
                fixed = replace(item, coarse=rle.encode_mask(mask, (x, y), size))
                patches.entries += [(fixed, tuple(box)) for box in chosen.tolist()]
        if not patches.entries:
            raise VertebraError(
                f"no object in the {split} split of {catalogue.path} has a coarse mask ({', '.join(given)}) with an "
                f"IoU above {MIN_IOU}."
            )
        catalogue.notes.append(
            f"{split}: {count} coarse masks ({', '.join(given)}), "
            + ("a boundary patch of each per epoch" if training else f"{len(patches.entries)} boundary patches")
        )
        if left_out:
            names = ", ".join(left_out[:NAMED]) + ", ..." * (len(left_out) > NAMED)
            catalogue.notes.append(
                f"{split}: {len(left_out)} coarse masks are left out, whose IoU with every ground truth mask is "
                f"{MIN_IOU} or less: {names}"
            )
        return [ReadSample.of(patches, i) for i in range(len(patches.entries))]

    def error_images(self, evaluation: Evaluation, sample: Sample, row: Mapping[str, Any]) -> str:
        """The patch, and over it the coarse mask, the ground truth and the prediction."""
        from vertebra.viz import plots

        image = plots.pixels(sample)
        labels = target_map(sample, (image.shape[1], image.shape[2]))
        predicted = self.hard_labels(evaluation.predictions[row["index"]])
        drawings = {
            "image": torch.full_like(labels, IGNORED),
            "coarse mask": (image[-1] > 0).to(torch.uint8),
            "ground truth": labels,
            "prediction": predicted,
        }
        name = Path(row["path"]).name
        return "".join(
            plots.image(
                plots.fitted(maps.overlay(image[:-1], drawn, len(CLASSES)), 200), f"{what}: {name}", format="jpeg"
            )
            for what, drawn in drawings.items()
        )

    def error_text(self, row: Mapping[str, Any], classes: Sequence[str]) -> str:
        return f"IoU <b>{row['iou']:.3f}</b>, of the coarse mask {row['coarse_iou']:.3f}"


def _source(name: str, catalogue: Catalogue, load: Callable[[str], Task] | None) -> CoarseMasks:
    """Coarse masks from a model, or from results for images of any split."""
    path = expanded(name)
    if path.suffix.lower() != ".safetensors" and not (path / "best.safetensors").is_file():
        images = [image for part in catalogue.splits.values() for image in part]
        results = read_masks(path, replace(catalogue, splits={"whole": images}), "whole")
        return lambda number, _: _masks(results.prediction(number), name)
    assert load is not None
    model = load(name)
    return lambda _, image: _masks(model.predict(image.image)[0], name)


def _masks(prediction: Prediction, name: str) -> Masks:
    if prediction.masks is None:
        raise VertebraError(f"data.coarse={name}: this model predicts no masks; take one for instance segmentation.")
    return prediction.masks


def _pairs(
    image: Sample, target: Target, coarse: Sequence[Masks], *, degraded: bool
) -> tuple[list[CoarseObject], list[str]]:
    """The objects of an image with their coarse masks; and of each coarse mask that is left out, the name.

    Each coarse mask is of the object with which it has the highest IoU, whatever their classes. With `degraded` each
    object also has its own, to be degraded; crowds have none.
    """
    assert target.masks is not None
    crowd = [False] * len(target.masks) if target.crowd is None else target.crowd.tolist()
    single = [i for i, mask in enumerate(target.masks.crops) if not crowd[i] and bool(mask.any())]
    encoded = rle.encode(target.masks.take(single))
    kept, left_out = [], []
    if degraded:
        kept = [CoarseObject(image, image.where(i), mask) for i, mask in zip(single, encoded, strict=True)]
    for number, mask in enumerate((mask for masks in coarse for mask in rle.encode(masks)), 1):
        ious = rle.iou([mask], encoded)[0]
        where = f"{image.name}, coarse mask {number}"
        if len(ious) and ious.max() > MIN_IOU:
            kept.append(CoarseObject(image, where, encoded[int(ious.argmax())], mask))
        else:
            left_out.append(where)
    return kept, left_out


KIND = BoundaryPatches()
