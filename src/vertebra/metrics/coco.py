"""How good found instances are: COCO's average precision, a thin face over faster-coco-eval, and what it lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as rle
from faster_coco_eval.core.cocoeval import Params
from torch import Tensor

from vertebra.structures import Masks, Points, Prediction, Target

KINDS = {"box": "bbox", "mask": "segm", "boundary": "boundary", "keypoints": "keypoints"}
"""What instances can be compared by, and what faster-coco-eval calls it."""
NAMES = (
    ("ap", "AP"),  # mean over IoU 0.5, 0.55, ..., 0.95
    ("ap50", "AP50"),
    ("ap75", "AP75"),
    ("ap_small", "AP small"),
    ("ap_medium", "AP medium"),
    ("ap_large", "AP large"),
    ("ar1", "AR1"),
    ("ar10", "AR10"),
    ("ar{most}", "AR{most}"),
    ("ar_small", "AR small"),
    ("ar_medium", "AR medium"),
    ("ar_large", "AR large"),
)
"""COCO's twelve numbers in its own order: key and label; `most` is how many detections of a picture count."""
KEYPOINT_NAMES = (
    ("ap", "AP"),
    ("ap50", "AP50"),
    ("ap75", "AP75"),
    ("ap_medium", "AP medium"),
    ("ap_large", "AP large"),
    ("ar", "AR"),
    ("ar50", "AR50"),
    ("ar75", "AR75"),
    ("ar_medium", "AR medium"),
    ("ar_large", "AR large"),
)
"""COCO's ten for keypoints, in its own order."""
ENOUGH = 0.5
"""From this similarity on (IoU, or OKS for keypoints) an object is found."""
SIGMA = 0.05
"""How far annotators scatter around keypoints of which the data does not tell it: amid COCO's 0.025 to 0.107."""

RunLengths = dict[str, Any]
"""A mask as COCO compresses it: `size` (height, width) and `counts`, column by column."""


@dataclass
class _Instances:
    """What is true, or found, in one picture, without the pixels."""

    labels: np.ndarray
    """[N] int64."""
    boxes: np.ndarray | None
    """[N, 4] float64 x, y, width, height."""
    masks: list[RunLengths] | None
    keypoints: np.ndarray | None
    """[N, K, 3] float64."""
    scores: np.ndarray
    """[N] float64, falling; ones for what is true."""
    areas: np.ndarray
    """[N] float64, of what is true."""
    crowd: np.ndarray
    """[N] bool."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class _Picture:
    id: int | None
    path: str
    truths: _Instances
    found: _Instances


@dataclass
class _Tally:
    """What matching within each class says of all detections: the ignored ones left out."""

    scores: np.ndarray
    """[D] float64, falling."""
    hits: np.ndarray
    """[D] bool, whether each found an object."""
    truths: int
    """Objects that were to be found."""

    def at(self, threshold: float) -> tuple[float | None, float | None, float]:
        """Precision, recall and F1 of the detections with that score at least; None where nothing is counted."""
        kept = int(np.searchsorted(-self.scores, -threshold, side="right"))
        right = int(self.hits[:kept].sum())
        return (
            right / kept if kept else None,
            right / self.truths if self.truths else None,
            2 * right / max(1, kept + self.truths),
        )

    def best(self) -> float:
        """The threshold with the highest F1: half-way between the lowest score it keeps and the next one below (or 0),
        so that rounding moves no detection over it; the highest of equally good ones, and 0.5 if nothing is right."""
        ends = np.append(np.flatnonzero(np.diff(self.scores)), len(self.scores) - 1)  # the last of each score
        if not self.hits.any():
            return 0.5
        f1 = 2 * self.hits.cumsum()[ends] / (ends + 1 + self.truths)
        last = ends[f1.argmax()]
        lowest = float(self.scores[last])
        below = float(self.scores[last + 1]) if last + 1 < len(self.scores) else min(0.0, lowest)
        return (lowest + below) / 2


class CocoMetrics:
    """Average precision as COCO defines it, and at which score to cut: over a data set, and over processes.

    Source: COCO's detection and keypoint evaluation (cocodataset.org); boundaries: Boundary IoU, arXiv:2103.16562.
    """

    def __init__(
        self,
        classes: int,
        kinds: Sequence[str],
        points: Points | None = None,
        *,
        threshold: float = ENOUGH,
        most: int = 100,
    ) -> None:
        """
        Args:
            kinds: of KINDS; the first one decides what counts as found in `row`, in the threshold and in the confusion.
            points: the keypoints, for kind `keypoints`.
            threshold: from which score on `row` takes a detection for an answer.
            most: detections that count for COCO's numbers, the best of each picture and class: 100 as in COCO, or more
                if pictures hold more. Of keypoints it is always 20.
        """
        assert kinds, "nothing to compare by"
        assert set(kinds) <= set(KINDS), kinds
        self.classes = classes
        self.kinds = tuple(kinds)
        self.threshold = threshold
        self.most = most
        self.points = points
        self.sigmas = _sigmas(points)
        self.pictures: list[_Picture] = []
        each = {
            kind: [(f"{_word(kind)}_{key}", f"{_word(kind)} {text}") for key, text in self._names(kind)]
            for kind in kinds
        }
        self.labels: Mapping[str, str] = {
            **{key: text for kind in kinds for key, text in each[kind][:3]},
            "f1": "F1",
            "precision": "precision",
            "recall": "recall",
            "threshold": "best threshold",
            **{key: text for kind in kinds for key, text in each[kind][3:]},
        }

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> None:
        """Both in pixels of the pictures themselves; what is no longer needed of masks is let go."""
        for prediction, target in zip(predictions, targets, strict=True):
            self.pictures.append(self._picture(prediction, target))

    def reset(self) -> None:
        self.pictures = []

    def row(self, prediction: Prediction, target: Target) -> dict[str, Any]:
        """Objects to be found (`truths`), how many were `found` and `missed`, and how many answers are `false`, at
        `threshold`; as error what the picture's F1 lacks to 1. A crowd is not counted, nor what was found in it."""
        return self._row(self._picture(prediction, target))

    def rows(self) -> list[dict[str, Any]]:
        """`row` of every picture so far, in their order."""
        return [self._row(picture) for picture in self.pictures]

    def compute(self) -> dict[str, Any]:
        """COCO's numbers for each kind, such as `box_ap`, all in 0..1; one that COCO leaves undefined, because no such
        objects are there, is not given. Small objects are those below 32 x 32 pixels, large ones those from 96 x 96:
        by Target.areas, else by the area of the mask, else of the box.

        Besides, of the first kind at similarity 0.5: `threshold`, the score with the best `f1` over all detections,
        and `precision` and `recall` there; `confusion` [classes + 1, classes + 1] counts at that threshold, a row per
        true class, the last row and column being the background. `per_class`: lists with an entry per class, None
        where it is undefined. `pr`: by kind and IoU (`50`, `75`) the precision at recall 0, 0.01, ..., 1 as `mean`
        over the classes and for each of the `classes`. `curve`: `precision`, `recall` and `f1` at each of 101 values of
        `score`, from 0 to 1 or as far as the scores go.
        """
        pictures = _numbered(_gathered(self.pictures))
        values: dict[str, Any] = {}
        per_class: dict[str, list[Any]] = {}
        curves: dict[str, Any] = {}
        for kind in self.kinds:
            done = self._evaluated(kind, pictures)
            word, numbers = _word(kind), zip(self._names(kind), done.stats, strict=True)
            values |= {f"{word}_{key}": float(value) for (key, _), value in numbers if value > -1}
            precision = done.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class]: all sizes, most detections
            per_class[f"{word}_ap"] = [_mean(precision[:, :, k]) for k in range(self.classes)]
            per_class[f"{word}_ap50"] = [_mean(precision[0, :, k]) for k in range(self.classes)]
            curves[kind] = {"50": _curve(precision[0]), "75": _curve(precision[5])}
        similarities = [self._similarity(picture) for picture in pictures]
        tally = self._tally(pictures, similarities)
        threshold = tally.best()
        confusion = self._confusion(pictures, similarities, threshold)
        truths, answers, right = confusion.sum(1)[:-1], confusion.sum(0)[:-1], confusion.diagonal()[:-1]
        per_class["precision"] = [int(r) / int(n) if n else None for r, n in zip(right, answers, strict=True)]
        per_class["recall"] = [int(r) / int(n) if n else None for r, n in zip(right, truths, strict=True)]
        per_class["truths"] = truths.tolist()
        best = dict(zip(("precision", "recall", "f1"), tally.at(threshold), strict=True))
        low, high = min([0.0, *tally.scores[-1:]]), max([1.0, *tally.scores[:1]])  # some tools' go beyond 0..1
        scores = np.linspace(low, high, 101).tolist()
        rows = [tally.at(score) for score in scores]
        return {
            **values,
            **{name: value for name, value in best.items() if value is not None},
            "threshold": threshold,
            "confusion": confusion.tolist(),
            "per_class": per_class,
            "pr": curves,
            "curve": {
                "score": scores,
                **{name: [row[i] for row in rows] for i, name in enumerate(("precision", "recall", "f1"))},
            },
        }

    def _names(self, kind: str) -> list[tuple[str, str]]:
        names = KEYPOINT_NAMES if kind == "keypoints" else NAMES
        return [(key.format(most=self.most), text.format(most=self.most)) for key, text in names]

    def _row(self, picture: _Picture) -> dict[str, Any]:
        truths = int((~self._ignored(picture.truths)).sum())
        kept = picture.found.scores >= self.threshold
        matched = self._matched(picture, kept, self._similarity(picture))[kept]
        found = int((matched >= 0).sum())
        false = int((matched == NOTHING).sum())
        missed = truths - found
        wrong = missed + false
        return {
            "truths": truths,
            "found": found,
            "missed": missed,
            "false": false,
            "threshold": self.threshold,
            "error": wrong / (2 * found + wrong) if wrong else 0.0,
        }

    def _picture(self, prediction: Prediction, target: Target) -> _Picture:
        masks = "mask" in self.kinds or "boundary" in self.kinds
        picture = _Picture(target.id, target.path, _truths(target, masks), _found(prediction, masks))
        sizes = {tuple(mask["size"]) for part in (picture.truths, picture.found) for mask in part.masks or ()}
        assert len(sizes) < 2, f"{target.path}: masks of different sizes, {sizes}"
        return picture

    def _ignored(self, truths: _Instances) -> np.ndarray:
        """[N] bool: what need not be found, crowds and, by keypoints, objects without any."""
        if self.kinds[0] != "keypoints" or not len(truths):
            return truths.crowd
        assert truths.keypoints is not None
        return truths.crowd | ~(truths.keypoints[:, :, 2] > 0).any(1)

    def _similarity(self, picture: _Picture) -> np.ndarray:
        """Of each detection to each truth, by the first kind: [D, T] in 0..1. To a crowd, the share that lies in it."""
        found, truths = picture.found, picture.truths
        if not len(found) or not len(truths):
            return np.zeros((len(found), len(truths)))
        crowd, kind = truths.crowd.astype(int).tolist(), self.kinds[0]
        if kind == "box":
            return np.asarray(rle.iou(found.boxes, truths.boxes, crowd))
        if kind == "keypoints":
            return _oks(found, truths, self.sigmas)
        assert found.masks is not None
        assert truths.masks is not None
        similarity = np.asarray(rle.iou(found.masks, truths.masks, crowd))
        if kind == "boundary":
            edges = [[rle.rleToBoundary(mask) for mask in masks] for masks in (found.masks, truths.masks)]
            narrow = np.minimum(similarity, np.asarray(rle.iou(*edges, crowd)))
            similarity = np.where(truths.crowd, similarity, narrow)
        return similarity

    def _matched(self, picture: _Picture, kept: np.ndarray, similarity: np.ndarray) -> np.ndarray:
        """Which truth of its own class each detection that is `kept` has found: [D], or NOTHING, or IGNORED."""
        found, truths = picture.found, picture.truths
        same = (found.labels[:, None] == truths.labels) & kept[:, None]
        return match(np.where(same, similarity, 0.0), self._ignored(truths), truths.crowd)

    def _tally(self, pictures: Sequence[_Picture], similarities: Sequence[np.ndarray]) -> _Tally:
        scores, hits, truths = [np.zeros(0)], [np.zeros(0, bool)], 0
        for picture, similarity in zip(pictures, similarities, strict=True):
            matched = self._matched(picture, np.ones(len(picture.found), bool), similarity)
            counted = matched != IGNORED
            scores.append(picture.found.scores[counted])
            hits.append(matched[counted] >= 0)
            truths += int((~self._ignored(picture.truths)).sum())
        every = np.concatenate(scores)
        order = np.argsort(-every, kind="stable")
        return _Tally(every[order], np.concatenate(hits)[order], truths)

    def _confusion(
        self, pictures: Sequence[_Picture], similarities: Sequence[np.ndarray], threshold: float
    ) -> np.ndarray:
        """Detections first find truths of their own class, as average precision has it; those that found nothing may
        then be taken for a truth of another class that nobody found."""
        matrix = np.zeros((self.classes + 1, self.classes + 1), np.int64)
        background = self.classes
        for picture, similarity in zip(pictures, similarities, strict=True):
            found, truths = picture.found, picture.truths
            kept = found.scores >= threshold
            matched = self._matched(picture, kept, similarity)
            open_truths = ~self._ignored(truths)
            open_truths[matched[matched >= 0]] = False
            open_found = kept & (matched == NOTHING)
            rest = np.where(open_found[:, None] & open_truths, similarity, 0.0)
            other = match(rest, np.zeros(len(truths), bool), truths.crowd)
            for i in np.flatnonzero(kept & (matched != IGNORED)):
                which = matched[i] if matched[i] >= 0 else other[i]
                matrix[truths.labels[which] if which >= 0 else background, found.labels[i]] += 1
            open_truths[other[other >= 0]] = False
            np.add.at(matrix[:, background], truths.labels[open_truths], 1)
        return matrix

    def _evaluated(self, kind: str, pictures: Sequence[_Picture]) -> COCOeval_faster:
        """faster-coco-eval's results by one kind; classes and pictures are numbered from 1."""
        truths = [row for i, p in enumerate(pictures, 1) for row in _annotations(kind, p.truths, i, truth=True)]
        found = [row for i, p in enumerate(pictures, 1) for row in _annotations(kind, p.found, i, truth=False)]
        images = [{"id": i, **_size(p)} for i, p in enumerate(pictures, 1)]
        categories = [{"id": k + 1, "name": str(k)} for k in range(self.classes)]
        sets = []
        for rows in (truths, found):
            for number, row in enumerate(rows, 1):
                row["id"] = number
            sets.append(COCO({"images": images, "annotations": rows, "categories": categories}))
        sigmas = None if kind != "keypoints" else list(self.sigmas)
        evaluator = COCOeval_faster(*sets, KINDS[kind], kpt_oks_sigmas=sigmas)
        evaluator.params.imgIds = [image["id"] for image in images]
        evaluator.params.catIds = [category["id"] for category in categories]
        if kind != "keypoints":
            evaluator.params.maxDets = [1, min(10, self.most), self.most]
        evaluator.run()
        return evaluator


NOTHING, IGNORED = -1, -2
"""In place of a truth's index: the detection found none; it found one that is not counted, and counts as little."""


def match(similarity: np.ndarray, ignored: np.ndarray, crowd: np.ndarray, enough: float = ENOUGH) -> np.ndarray:
    """Which truth each detection finds, the one with the highest score choosing first, as COCO does it.

    Args:
        similarity: [D, T], detections by falling score.
        ignored: [T] bool, truths that are chosen only if no other is similar enough.
        crowd: [T] bool, ignored truths that any number of detections may find.
        enough: the least similarity.

    Returns:
        [D] int64: index of the truth, NOTHING, or IGNORED if it is an ignored one.
    """
    matched = np.full(len(similarity), NOTHING)
    open_truths = np.ones(similarity.shape[1], bool)
    for i in np.flatnonzero((similarity >= enough).any(1)):
        for choice, value in ((open_truths & ~ignored, None), (open_truths & ignored, IGNORED)):
            row = np.where(choice, similarity[i], -1.0)
            best = int(row.argmax())
            if row[best] >= enough:
                matched[i] = best if value is None else value
                open_truths[best] = crowd[best]
                break
    return matched


def encode(crop: Tensor, corner: tuple[int, int], size: tuple[int, int]) -> RunLengths:
    """A mask's run lengths from its crop [h, w] bool whose top left pixel is (x, y) `corner` of a picture of (height,
    width) `size`, without making it as large as the picture."""
    (h, w), (x, y), (height, width) = crop.shape, corner, size
    columns = np.zeros((w, h + 1), np.int8)  # a zero below each column ends its last run
    columns[:, :h] = crop.cpu().numpy().T
    column, row = np.divmod(np.flatnonzero(np.diff(columns.ravel(), prepend=0)), h + 1)
    edges = (x + column) * height + y + row  # begins and ends of runs in turn
    joined = np.flatnonzero(edges[1:-1:2] == edges[2::2])  # ends at the foot of a column where the next one begins
    edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    counts = np.diff(edges, prepend=0, append=height * width)
    if len(edges) and not counts[-1]:
        counts = counts[:-1]
    return rle.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)


def _encode_all(masks: Tensor | Masks) -> list[RunLengths]:
    """Each mask by the rectangle that it fills: most fill little of their picture."""
    if isinstance(masks, Masks):
        return [encode(crop, corner, masks.size) for crop, corner in zip(masks.crops, masks.corners, strict=True)]
    size = (masks.shape[1], masks.shape[2])
    encoded = []
    for mask in masks.cpu():
        pixels = mask.numpy()  # whose `any` is many times faster than torch's
        y, x = np.flatnonzero(pixels.any(1)).tolist() or [0], np.flatnonzero(pixels.any(0)).tolist() or [0]
        encoded.append(encode(mask[y[0] : y[-1] + 1, x[0] : x[-1] + 1], (x[0], y[0]), size))
    return encoded


def _truths(target: Target, masks: bool) -> _Instances:
    assert target.labels is not None
    count = len(target.labels)
    boxes = None if target.boxes is None else _wide(target.boxes)
    assert target.masks is not None or not masks or not count
    needed = target.masks is not None and (masks or target.areas is None)
    encoded = _encode_all(target.masks) if needed and target.masks is not None else None
    if target.areas is not None:
        areas = _array(target.areas)
    elif encoded is not None:
        areas = np.array([float(rle.area(mask)) for mask in encoded])
    else:
        assert boxes is not None
        areas = boxes[:, 2] * boxes[:, 3]
    crowd = np.zeros(count, bool) if target.crowd is None else target.crowd.cpu().numpy().astype(bool)
    keypoints = None if target.keypoints is None else _array(target.keypoints)
    encoded = (encoded or []) if masks else None
    return _Instances(target.labels.cpu().numpy(), boxes, encoded, keypoints, np.ones(count), areas, crowd)


def _found(prediction: Prediction, masks: bool) -> _Instances:
    assert prediction.labels is not None
    assert prediction.scores is not None
    count, kept = len(prediction.labels), prediction.masks
    encoded = None
    if masks:
        assert kept is not None or not count
        encoded = [] if kept is None else _encode_all(kept)
    boxes = None if prediction.boxes is None else _wide(prediction.boxes)
    keypoints = None if prediction.keypoints is None else _array(prediction.keypoints)
    labels, scores = prediction.labels.cpu().numpy(), _array(prediction.scores)
    return _Instances(labels, boxes, encoded, keypoints, scores, np.zeros(count), np.zeros(count, bool))


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()


def _wide(boxes: Tensor) -> np.ndarray:
    """[N, 4] x1, y1, x2, y2 -> x, y, width, height as float64."""
    wide = _array(boxes).reshape(-1, 4).copy()
    wide[:, 2:] -= wide[:, :2]
    return wide


def _annotations(kind: str, instances: _Instances, picture: int, *, truth: bool) -> list[dict[str, Any]]:
    """COCO's records of one picture's instances, by one kind."""
    rows: list[dict[str, Any]] = []
    for i, label in enumerate(instances.labels.tolist()):
        row: dict[str, Any] = {"image_id": picture, "category_id": label + 1, "iscrowd": int(instances.crowd[i])}
        box = None if instances.boxes is None else instances.boxes[i].tolist()
        if kind == "box":
            assert box is not None
            row |= {"bbox": box, "area": box[2] * box[3]}
        elif kind == "keypoints":
            assert instances.keypoints is not None
            points = instances.keypoints[i]  # [K, 3]
            span = points[:, :2].max(0) - points[:, :2].min(0)
            row |= {"keypoints": points.ravel().tolist(), "area": float(span[0] * span[1])}
            if truth:
                row |= {"bbox": box, "num_keypoints": int((points[:, 2] > 0).sum())}
        else:
            assert instances.masks is not None
            row |= {"segmentation": instances.masks[i], "area": float(rle.area(instances.masks[i]))}
        row |= {"area": float(instances.areas[i])} if truth else {"score": float(instances.scores[i])}
        rows.append(row)
    return rows


def _size(picture: _Picture) -> dict[str, int]:
    """Height and width for COCO's record of the picture, where masks tell them; nothing else asks for them."""
    for mask in (*(picture.truths.masks or ()), *(picture.found.masks or ())):
        return {"height": mask["size"][0], "width": mask["size"][1]}
    return {"height": 1, "width": 1}


def _oks(found: _Instances, truths: _Instances, sigmas: np.ndarray) -> np.ndarray:
    """Object keypoint similarity: [D, T]. To an object without keypoints it is by how far the detection's leave the
    object's box, doubled on each side."""
    assert found.keypoints is not None
    assert truths.keypoints is not None
    result = np.zeros((len(found), len(truths)))
    for j, (points, area) in enumerate(zip(truths.keypoints, truths.areas, strict=True)):
        seen = points[:, 2] > 0
        if seen.any():
            away = found.keypoints[:, seen, :2] - points[seen, :2]  # [D, seen, 2]
        else:
            assert truths.boxes is not None
            x, y, w, h = truths.boxes[j]
            low, high = np.array([x - w, y - h]), np.array([x + 2 * w, y + 2 * h])
            seen = np.ones(len(points), bool)
            away = np.maximum(low - found.keypoints[:, :, :2], 0) + np.maximum(found.keypoints[:, :, :2] - high, 0)
        distance = (away**2).sum(2) / (2 * sigmas[seen]) ** 2 / (area + np.spacing(1)) / 2
        result[:, j] = np.exp(-distance).mean(1)
    return result


def _sigmas(points: Points | None) -> np.ndarray:
    """[K]: as the data says, else COCO's if there are 17 keypoints, else SIGMA for each."""
    if points is not None and points.sigmas:
        return np.asarray(points.sigmas)
    known: np.ndarray = Params("keypoints").kpt_oks_sigmas
    return known if points is None or len(points.names) == len(known) else np.full(len(points.names), SIGMA)


def _gathered(pictures: list[_Picture]) -> list[_Picture]:
    """Those of all processes; a picture that came to several is taken from the first of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return pictures
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, pictures)
    owner: dict[tuple[int | None, str], int] = {}
    kept = []
    for rank, part in enumerate(parts):
        for picture in part:
            key = (picture.id, picture.path)
            if key == (None, "") or owner.setdefault(key, rank) == rank:
                kept.append(picture)
    return kept


def _numbered(pictures: list[_Picture]) -> list[_Picture]:
    """In the order of their numbers or else paths: it decides between equal scores, so it must always be the same."""
    return sorted(pictures, key=lambda p: (p.id is None, p.id or 0, p.path))


def _word(kind: str) -> str:
    return kind.removesuffix("s")


def _mean(precision: np.ndarray) -> float | None:
    """Of what is defined; COCO marks the rest by -1."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else None


def _curve(precision: np.ndarray) -> dict[str, Any]:
    """[recall, class] -> the precision at each recall, rounded because reports and checkpoints hold it."""
    defined = [column for column in precision.T if column[0] > -1]
    return {
        "mean": np.mean(defined, 0).round(4).tolist() if defined else None,
        "classes": [column.round(4).tolist() if column[0] > -1 else None for column in precision.T],
    }
