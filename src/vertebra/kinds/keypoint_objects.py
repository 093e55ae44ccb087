"""What keypoints of detections and of objects whose box is given have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from rich.box import SIMPLE_HEAD
from rich.markup import escape as escape_markup
from rich.table import Column, Table
from torch import Tensor

from vertebra.data.catalogue import Catalogue, Sample, check_keypoints
from vertebra.errors import escaped, one_of
from vertebra.kinds.objects import Objects, as_prediction, with_boxes
from vertebra.structures import Answer, KeypointSchema, Prediction, Target
from vertebra.tasks import Task

VISIBILITIES = {2: "visible", 1: "occluded", 0: "not labelled"}
"""The visibilities of a keypoint, in the order of the table's columns."""
LISTED = 3
"""Objects or keypoints that a note names; it counts all."""
NAMED = 20
"""Keypoints that the note on those without a label names; it counts all."""
BEYOND_BOX = 0.5
"""Share of a box's width or height by which a keypoint may lie outside of it without a note."""
MIN_PAIR_WIDTH = 0.2
"""Share of a box's width by which the two keypoints of a mirror pair lie apart in x, if their order is to count."""
MIN_PAIRS = 3
"""Mirror pairs of an object whose order counts, if one of them is to be compared with the others."""


class KeypointObjects(Objects):
    """A class, a score, a box and keypoints per object; all objects of a dataset have the same keypoints."""

    target_field = "keypoints"
    options: ClassVar[frozenset[str]] = Objects.options | {"keypoint"}

    def check_compatible(self, catalogue: Catalogue, task: Task) -> None:
        if task.keypoints is not None:
            check_keypoints(catalogue, task.keypoints)

    def model_options(self, catalogue: Catalogue, balance: bool = False, data: Any = None) -> dict[str, Any]:
        """The dataset's keypoint schema."""
        return {"keypoints": catalogue.keypoints} if catalogue.keypoints is not None else {}

    def metric_options(self, about: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
        """The score threshold of the checkpoint, and the sigmas of the dataset."""
        options = super().metric_options(about, catalogue)
        if catalogue.keypoints is not None and catalogue.keypoints.sigmas:
            options["sigmas"] = catalogue.keypoints.sigmas
        return options

    # -- predictions

    def answers(
        self,
        prediction: Prediction,
        classes: Sequence[str],
        *,
        keypoint: str = "",
        keypoints: KeypointSchema | None = None,
        **more: Any,
    ) -> list[Answer]:
        """The top-scoring objects, or the keypoint of each."""
        answers = super().answers(prediction, classes, **more)
        if not keypoint or keypoints is None:
            return answers
        one_of("keypoint", keypoint, keypoints.names)
        index = keypoints.names.index(keypoint)
        return [replace(answer, name=f"{keypoint} of {answer.name}", keypoint=index) for answer in answers]

    # -- `vertebra data`

    def tables(self, catalogue: Catalogue, targets: Mapping[str, Sequence[Target]]) -> list[Table]:
        """Those of all objects, and how often each keypoint is visible, occluded and not labelled, by split."""
        assert catalogue.keypoints is not None
        return [*super().tables(catalogue, targets), _visibility_table(catalogue, catalogue.keypoints)]

    def notes(self, catalogue: Catalogue) -> list[str]:
        assert catalogue.keypoints is not None
        schema = catalogue.keypoints
        train = _Objects.of(catalogue.splits.get("train", []), schema)
        all_objects = _Objects.of((sample for samples in catalogue.splits.values() for sample in samples), schema)
        notes = [*super().notes(catalogue), *_without_label(train), *_far_keypoints(all_objects)]
        return notes + _swapped_pairs(all_objects)


@dataclass
class _Objects:
    """The objects of some samples, without crowd regions; N in all."""

    schema: KeypointSchema
    samples: list[Sample]
    places: Tensor
    """[N, 2] int64, the sample of each and its index there."""
    keypoints: Tensor
    """[N, K, 3]: x, y in pixels of the image and visibility."""
    boxes: Tensor
    """[N, 4] x1, y1, x2, y2 in pixels of the image."""
    sizes: Tensor
    """[N, 2] width and height of the image in pixels."""

    @staticmethod
    def of(samples: Iterable[Sample], schema: KeypointSchema) -> _Objects:
        members: list[Sample] = []
        keypoints, boxes = [torch.zeros(0, len(schema.names), 3)], [torch.zeros(0, 4)]
        crowds = [torch.zeros(0, dtype=torch.bool)]
        sizes: list[tuple[int, int]] = []
        for sample in samples:
            target = sample.target
            around = with_boxes(as_prediction(target)).boxes
            if target.keypoints is None or around is None or not len(around):
                continue
            assert target.size is not None
            members.append(sample)
            keypoints.append(target.keypoints)
            boxes.append(around)
            crowds.append(torch.zeros(len(around), dtype=torch.bool) if target.crowd is None else target.crowd)
            sizes.append((target.size[1], target.size[0]))
        # Of all samples at once, as a few operations on each of 100,000 take a minute.
        counts = torch.tensor([len(around) for around in boxes[1:]], dtype=torch.int64)
        owners = torch.arange(len(members)).repeat_interleave(counts)
        indices = torch.arange(len(owners)) - (counts.cumsum(0) - counts)[owners]
        kept = ~torch.cat(crowds)
        return _Objects(
            schema,
            members,
            torch.stack((owners, indices), 1)[kept],
            torch.cat(keypoints)[kept],
            torch.cat(boxes)[kept],
            torch.tensor(sizes, dtype=torch.float32).reshape(-1, 2)[owners[kept]],
        )

    @property
    def labelled(self) -> Tensor:
        """[N, K] bool."""
        return self.keypoints[..., 2] > 0

    def where(self, i: int) -> str:
        sample, index = self.places[i].tolist()
        return self.samples[sample].where(index).removeprefix(", ")  # the built-in images have no path

    def keypoint_note(self, what: str, chosen: Tensor) -> list[str]:
        """A note with the number of the keypoints [N, K] bool that are `chosen`, if there are any."""
        return _note(what, chosen, lambda i, k: f"{escaped(self.schema.names[k])} of {self.where(i)}")


def _visibility_table(catalogue: Catalogue, schema: KeypointSchema) -> Table:
    """A row per keypoint; per split the number of objects of which it has each visibility."""
    meanings = ", ".join(f"{value} {meaning}" for value, meaning in VISIBILITIES.items())
    title = f"keypoints: {meanings}"
    table = Table(Column("keypoint", overflow="fold"), title=title, box=SIMPLE_HEAD, collapse_padding=True)
    columns: list[list[int]] = []
    for split, samples in catalogue.splits.items():
        visibilities = _Objects.of(samples, schema).keypoints[..., 2]
        for value in VISIBILITIES:
            table.add_column(f"{split}\n{value}", justify="right", no_wrap=True)
            columns.append((visibilities == value).sum(0).tolist())
    for name, *counts in zip(schema.names, *columns, strict=True):
        table.add_row(escape_markup(escaped(name)), *map(str, counts))
    return table


def _note(what: str, chosen: Tensor, name: Callable[..., str]) -> list[str]:
    """A note with the number of the entries of `chosen` (bool) that are true, if any, and the `name` of the first,
    which is given their indices."""
    entries = chosen.nonzero()
    first = "; ".join(name(*entry) for entry in entries[:LISTED].tolist())
    more = "; ..." if len(entries) > LISTED else ""
    return [f"{what}: {len(entries)} ({first}{more})"] if len(entries) else []


def _without_label(train: _Objects) -> list[str]:
    """A note on the keypoints that no object of the train split has."""
    labelled = train.labelled.any(0).tolist()
    absent = [escaped(name) for name, known in zip(train.schema.names, labelled, strict=True) if not known]
    if not absent or not len(train.places):
        return []
    more = ", ..." if len(absent) > NAMED else ""
    return [f"{len(absent)} of {len(labelled)} keypoints have no label in train: {', '.join(absent[:NAMED])}{more}"]


def _far_keypoints(objects: _Objects) -> list[str]:
    """Notes on objects without a labelled keypoint, and on labelled keypoints outside of their image or far from their
    box."""
    places, labelled = objects.keypoints[..., :2], objects.labelled  # [N, K, 2], [N, K]
    outside = ((places < 0) | (places > objects.sizes[:, None])).any(-1) & labelled
    starts, ends = objects.boxes[:, None, :2], objects.boxes[:, None, 2:]  # [N, 1, 2]
    margins = BEYOND_BOX * (ends - starts)
    far = ((places < starts - margins) | (places > ends + margins)).any(-1) & labelled
    return [
        *_note("objects without a labelled keypoint", ~labelled.any(1), objects.where),
        *objects.keypoint_note("keypoints outside of their image", outside),
        *objects.keypoint_note("keypoints outside of their box by more than half its width or height", far),
    ]


def _swapped_pairs(objects: _Objects) -> list[str]:
    """A note on mirror pairs whose order in x is not that of all other pairs of the object.

    Pairs that are narrow for the box do not count, because their order is chance where an object is seen from its side.
    """
    schema = objects.schema
    pairs = [(i, j) for i, j in enumerate(schema.flip_indices) if i < j]
    first, second = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    x, labelled = objects.keypoints[..., 0], objects.labelled
    distances = x[:, first] - x[:, second]  # [N, P]
    widths = objects.boxes[:, 2] - objects.boxes[:, 0]
    counted = labelled[:, first] & labelled[:, second] & (distances.abs() > MIN_PAIR_WIDTH * widths[:, None])
    falling, rising = counted & (distances > 0), counted & (distances < 0)
    enough = counted.sum(1, keepdim=True) >= MIN_PAIRS
    odd = enough & (falling & (falling.sum(1, keepdim=True) == 1) | rising & (rising.sum(1, keepdim=True) == 1))

    def name(i: int, pair: int) -> str:
        left, right = (escaped(schema.names[k]) for k in pairs[pair])
        return f"{left} and {right} of {objects.where(i)}"

    return _note("mirror pairs that may be swapped, as all others of the object are in the other order", odd, name)
