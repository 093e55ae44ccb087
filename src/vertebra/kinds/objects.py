"""What boxes, instance masks and keypoints have in common: any number of detections per image."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.markup import escape as escape_markup
from rich.table import Column, Table
from torch import Tensor

from vertebra.data import segments
from vertebra.data.augment import Transform
from vertebra.data.augment.objects import ObjectsAugment, ObjectsTransform
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.errors import VertebraError, escaped
from vertebra.kinds import tiles as tiling
from vertebra.kinds import views
from vertebra.kinds.base import Kind, listed_classes, uneven
from vertebra.kinds.coco_writer import DatasetIds, entries
from vertebra.kinds.pseudo_labels import AnnotationsWriter
from vertebra.kinds.tiles import Tile
from vertebra.kinds.writers import Writer, WriterOptions
from vertebra.metrics.evaluation import Evaluation
from vertebra.structures import Answer, Instance, KeypointSchema, Prediction, Preprocess, Target
from vertebra.viz import draw, fonts
from vertebra.viz.draw import Colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL_AREA, LARGE_AREA = 32**2, 96**2
"""Square pixels between which COCO calls objects medium."""
COLOURED_CURVES = 10
"""With at most this many classes, the curve of each has its own colour."""

SAME_IOU = 0.9
"""Least IoU of the boxes, and of the masks, of one object in two predictions that agree."""
SAME_SCORE = 0.05
"""Largest difference of its scores."""
SAME_POINT = 0.02
"""Largest distance of its keypoints, in shares of the longer side of its box."""


class Objects(Kind):
    """Detections: a class, a score and a box each; subclasses add masks or keypoints."""

    augment: ClassVar[type] = ObjectsAugment
    no_augment: ClassVar[Any] = ObjectsAugment(scales=(1.0, 1.0), flip=0.0, colour=0.0)
    resize_modes: ClassVar[tuple[str, ...]] = ("shortest", "fit", "squash")
    objects = True
    contents = "objects"
    options = frozenset({"threshold", "tile", "overlap", "annotations", "crops", "scores", "point"})
    eval_batch_size = 4
    ranked_by: ClassVar[str] = "F1"
    """Measure by which the report ranks wrong predictions."""
    tta_scales: ClassVar[tuple[float, ...]] = (0.75, 1.0, 1.25)

    @property
    def fields(self) -> frozenset[str]:
        return frozenset({"boxes", self.target_field})

    # -- data

    def check(self, preprocess: Preprocess, augment: ObjectsAugment | None = None) -> None:
        if preprocess.resize == "crop":
            raise VertebraError(
                f"resize is 'crop', which would cut objects off; a task that learns {self.target_field} needs "
                "'shortest', 'fit' or 'squash'."
            )
        if augment is not None and augment.copy_paste and "masks" not in self.fields:
            raise VertebraError(
                f"augment.copy_paste is {augment.copy_paste:g}, but it cuts objects out by their masks, and this task "
                f"learns {self.target_field}; set it to 0."
            )

    def transform(
        self, augment: ObjectsAugment, preprocess: Preprocess, keypoints: KeypointSchema | None = None
    ) -> Transform:
        return ObjectsTransform(augment, preprocess, keypoints)

    def labels(self, target: Target) -> Tensor:
        return super().labels(target) if target.labels is None else target.labels

    def metric_options(self, about: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
        """The score threshold of the checkpoint."""
        threshold = about.get("metrics", {}).get("threshold")
        return {} if threshold is None else {"threshold": threshold}

    # -- predictions

    def merge_views(self, predictions: Sequence[Prediction]) -> Prediction:
        return views.merge(predictions)

    def merge_tiles(
        self, predictions: Iterable[Prediction], tiles: Sequence[Tile], size: tuple[int, int]
    ) -> Prediction:
        return tiling.merge(list(predictions), tiles, size)

    def agreement(self, prediction: Prediction, other: Prediction) -> tuple[int, int]:
        """Of the objects of both, those for which the other prediction has one of the same class, box, score, mask and
        keypoints."""
        same = _same_objects(prediction, other)  # [N, M]
        return int(same.any(1).sum() + same.any(0).sum()), len(prediction) + len(other)

    def filter(self, prediction: Prediction, threshold: float | Sequence[float]) -> tuple[Prediction, int]:
        assert prediction.scores is not None
        assert not isinstance(threshold, Sequence), "detections have one threshold"
        kept = torch.nonzero(prediction.scores >= threshold).flatten().tolist()
        below = len(prediction.scores) - len(kept)
        return (prediction.take(kept) if below else prediction), below

    def summarize(self, predictions: Sequence[Prediction], classes: Sequence[str], top: int = 3) -> str:
        """The number of detections of each class."""
        counts: Counter[int] = Counter()
        for prediction in predictions:
            if prediction.labels is not None:
                counts.update(prediction.labels.tolist())
        most_first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{count} {classes[label]}" for label, count in most_first) or "nothing"

    def draw(
        self,
        image: Tensor,
        prediction: Prediction,
        classes: Sequence[str],
        *,
        keypoints: KeypointSchema | None = None,
        threshold: float = 0.0,
        top: int = 3,
    ) -> Image.Image:
        return draw.instances(image, prediction, classes, keypoints=keypoints, threshold=threshold)

    def draw_target(
        self, image: Tensor, target: Target, classes: Sequence[str], *, keypoints: KeypointSchema | None = None
    ) -> Image.Image:
        return draw.instances(image, with_boxes(as_prediction(target)), classes, keypoints=keypoints)

    def legend(self, targets: Sequence[Target], classes: Sequence[str]) -> list[tuple[str, Colour]]:
        """The classes that occur; none if there is one class only, of which every object has its own colour."""
        labels = {label for target in targets for label in self.labels(target).tolist()}
        return [(classes[i], draw.colour(i)) for i in sorted(labels)] if len(classes) > 1 else []

    def record(self, prediction: Prediction, classes: Sequence[str], top: int = 3) -> dict[str, Any]:
        """`objects`: for each its `class`, its index `label`, `score` and `box` (x1, y1, x2, y2 in pixels), and where
        there are such `mask` (compressed RLE) and `keypoints` (x, y, score of each)."""
        objects = []
        for instance, entry in zip(prediction, entries(prediction, 0, range(len(classes))), strict=True):
            assert instance.box is not None
            about = {"class": classes[entry["category_id"]], "label": entry["category_id"], "score": entry["score"]}
            about["box"] = [round(value, 3) for value in instance.box]
            if "segmentation" in entry:
                about["mask"] = entry["segmentation"]
            if "keypoints" in entry:
                about["keypoints"] = [entry["keypoints"][i : i + 3] for i in range(0, len(entry["keypoints"]), 3)]
            objects.append(about)
        return {"objects": objects}

    def rows(self, prediction: Prediction, classes: Sequence[str]) -> list[dict[str, Any]]:
        """A row per object: class, label, score, box; of a mask its area in pixels."""
        rows = []
        for i, instance in enumerate(prediction):
            row: dict[str, Any] = {"class": classes[instance.label or 0], "label": instance.label}
            row["score"] = instance.score
            row |= zip(("x1", "y1", "x2", "y2"), instance.box or (), strict=False)
            if prediction.masks is not None:
                row["area"] = int(prediction.masks.crops[i].sum())
            rows.append(row)
        return rows

    def to_coco(self, prediction: Prediction, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        return entries(prediction, image_id, category_ids)

    def to_supervision(self, prediction: Prediction, classes: Sequence[str], supervision: Any) -> Any:
        """Detections, with the class names and the keypoints in `data`."""
        assert prediction.boxes is not None
        assert prediction.labels is not None
        assert prediction.scores is not None
        data: dict[str, Any] = {"class_name": np.array([instance.name for instance in prediction], dtype=str)}
        if prediction.keypoints is not None:
            data["keypoints"] = prediction.keypoints.numpy()
        return supervision.Detections(
            xyxy=prediction.boxes.numpy(),
            mask=None if prediction.masks is None else prediction.masks.dense().numpy(),
            confidence=prediction.scores.numpy(),
            class_id=prediction.labels.numpy(),
            data=data,
        )

    def crops(self, image: Tensor, prediction: Prediction) -> Iterator[tuple[Instance, Image.Image]]:
        height, width = image.shape[-2:]
        for instance in prediction:
            box = instance.box
            if box is None or not all(map(math.isfinite, box)):
                continue
            x1, y1 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
            x2, y2 = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
            if x1 < x2 and y1 < y2:
                yield instance, draw.to_image(image[:, y1:y2, x1:x2])

    def answers(
        self,
        prediction: Prediction,
        classes: Sequence[str],
        *,
        labels: Sequence[int] = (),
        point: tuple[int, int] | None = None,
        top: int = 1,
        **_: Any,
    ) -> list[Answer]:
        """The top-scoring objects, of those in whose box the point lies."""
        answers = []
        for instance in sorted(prediction, key=lambda instance: -(instance.score or 0.0)):
            assert instance.box is not None
            assert instance.label is not None
            (x1, y1, x2, y2), (x, y) = instance.box, point or (math.nan, math.nan)
            if (not labels or instance.label in labels) and (point is None or (x1 <= x < x2 and y1 <= y < y2)):
                name = f"{classes[instance.label]} {instance.score or 0.0:.2f}"
                answers.append(Answer(name, instance.label, instance.box))
        return answers[:top]

    def dataset_ids(self, annotations: str | Path, classes: Sequence[str]) -> DatasetIds:
        """The ids in a COCO annotation file."""
        return DatasetIds.read(annotations, classes)

    def labels_writer(self, folder: Path, options: WriterOptions) -> Writer:
        """COCO annotations."""
        return AnnotationsWriter(folder, options)

    # -- evaluation

    def sections(self, evaluation: Evaluation, samples: Sequence[Sample]) -> Iterator[tuple[str, str]]:
        from vertebra.viz import plots

        metrics = evaluation.metrics
        if "pr" in metrics:
            curves = _precision_recall(metrics["pr"], evaluation.classes)
            yield "Precision and recall", plots.plot(curves, "precision at each recall")
        if "curve" in metrics:
            figure = plots.plot(_by_threshold(metrics), "precision, recall and F1 by score threshold")
            yield "Score threshold", _threshold_note(metrics) + figure
        if "confusion" in metrics:
            matrix = plots.confusion(metrics["confusion"], [*evaluation.classes, "background"])
            yield "Confusion matrix", plots.plot(matrix, "confusion matrix")
        if "per_class" in metrics:
            yield "Classes", plots.per_class(metrics["per_class"], evaluation.classes)
        if evaluation.rows and "true_positives" in evaluation.rows[0]:
            yield "Most wrong", self.most_wrong(evaluation, samples)

    def most_wrong(self, evaluation: Evaluation, samples: Sequence[Sample]) -> str:
        figures = super().most_wrong(evaluation, samples)
        if "<figure" not in figures:
            return figures
        return f"<p>Lowest {self.ranked_by} first: ground truth on the left, prediction on the right.</p>" + figures

    def error_images(self, evaluation: Evaluation, sample: Sample, row: Mapping[str, Any]) -> str:
        """Ground truth and prediction, side by side."""
        from vertebra.viz import plots

        image = plots.pixels(sample)
        target = as_prediction(sample.load_target((image.shape[1], image.shape[2])))
        tags = []
        for prediction, word in ((target, "ground truth"), (evaluation.predictions.get(row["index"]), "prediction")):
            if prediction is not None:
                drawn = self.draw(
                    *self.report_view(image, with_boxes(prediction), sample),
                    evaluation.classes,
                    keypoints=evaluation.keypoints,
                    threshold=row.get("threshold", 0.0),
                )
                tags.append(plots.image(plots.fitted(drawn), f"{word}: {Path(row['path']).name}", format="jpeg"))
        return "".join(tags)

    def report_view(self, image: Tensor, prediction: Prediction, sample: Sample) -> tuple[Tensor, Prediction]:
        """What the report shows of an image [C, H, W] and a prediction in its pixels: by default all."""
        return image, prediction

    def error_text(self, row: Mapping[str, Any], classes: Sequence[str]) -> str:
        counts = [f"{row['true_positives']} of {row['objects']} detected"]
        if count := row["false_positives"]:
            counts.append(f"{count} false positive{'s' * (count != 1)}")
        return f"<b>{', '.join(counts)}</b>"

    # -- `vertebra data`

    def inspect_sample(self, sample: Sample, size: tuple[int, int]) -> tuple[Target, list[str]]:
        problems: list[str] = []
        boxes: list[tuple[int, int, int, int]] = []
        target = sample.target
        if target.size not in (None, size):
            try:
                replace(sample, segments=()).load_target(size)  # which raises
            except VertebraError as error:
                return target, [str(error)]
        for i, segment in enumerate(sample.segments):  # one by one: all masks of an image can take gigabytes
            try:
                x, y, mask = segments.crop(segment, size, sample.where(i))
            except VertebraError as error:
                problems.append(str(error))
                continue
            if mask.numel():
                boxes.append((x, y, x + mask.shape[1], y + mask.shape[0]))
            elif segment:  # [] is an object without a mask, which is a note of the catalogue
                problems.append(f"{sample.where(i)}: its mask has no pixel.")
        if target.boxes is None:
            extents = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
            areas = (extents[:, 2:] - extents[:, :2]).prod(1)
            target = Target(boxes=extents, areas=areas, path=target.path)
        elif target.labels is not None:
            rows = [(label, *box) for label, box in zip(target.labels.tolist(), target.boxes.tolist(), strict=True)]
            first = {row: i for i, row in reversed(list(enumerate(rows)))}
            problems += [
                f"{sample.where(i)} has the class and box of {sample.where(first[row]).rpartition(', ')[2]}."
                for i, row in enumerate(rows)
                if first[row] != i
            ]
        return target, problems

    def difference(self, target: Target, other: Target, classes: Sequence[str]) -> str:
        for a, b in ((target.boxes, other.boxes), (target.labels, other.labels)):
            if (a is None) != (b is None) or (a is not None and b is not None and not torch.equal(a, b)):
                return "other objects"
        return ""

    def tables(self, catalogue: Catalogue, targets: Mapping[str, Sequence[Target]]) -> list[Table]:
        """Objects by class, and the sizes of objects and boxes, by split."""
        return [self._class_table(catalogue), _size_table(catalogue, targets)]

    def _class_table(self, catalogue: Catalogue) -> Table:
        """Per class and split the objects, their share, and the images that have at least one."""
        counts = {split: catalogue.counts(split, self.labels) for split in catalogue.splits}
        has = ", ".join(name for name in ("boxes", "masks", "keypoints") if name in catalogue.has)
        title = escape_markup(f"{catalogue.path} ({catalogue.format}: {has})")
        table = Table(Column("class", overflow="fold"), title=title, box=SIMPLE_HEAD, collapse_padding=True)
        with_shares = list(catalogue.splits) if len(catalogue.splits) < 3 else ["train"]  # else beyond 80 columns
        images = {split: [0] * len(catalogue.classes) for split in catalogue.splits}
        for split, samples in catalogue.splits.items():
            for column in ("objects", "share", "images") if split in with_shares else ("objects", "images"):
                table.add_column(f"{split}\n{column}", justify="right", min_width=len(column), no_wrap=True)
            for sample in samples:
                for label in set(self.labels(sample.target).tolist()):
                    images[split][label] += 1
        sums = {split: sum(counts[split]) for split in catalogue.splits}
        listed, others = listed_classes(list(counts.values()))
        for i in listed:
            row = [escape_markup(escaped(catalogue.classes[i]))]
            for split in catalogue.splits:
                share = f"{counts[split][i] / max(1, sums[split]):.1%}"
                row += [str(counts[split][i]), *[share] * (split in with_shares), str(images[split][i])]
            table.add_row(*row)
        if others:
            row = [f"{len(others)} rarer classes"]
            for split in catalogue.splits:
                row += [str(sum(counts[split][i] for i in others)), *[""] * (split in with_shares), ""]
            table.add_row(*row)
        table.add_section()
        totals: list[str] = []
        for split, samples in catalogue.splits.items():
            totals += [str(sums[split]), *[""] * (split in with_shares), str(len(samples))]
        table.add_row("all", *totals)
        return table

    def notes(self, catalogue: Catalogue) -> list[str]:
        counts = catalogue.counts("train", self.labels)
        notes = []
        if absent := [name for name, count in zip(catalogue.classes, counts, strict=True) if not count]:
            many = f"{len(absent)} of {len(catalogue.classes)} classes have"
            more = ", ..." if len(absent) > 20 else ""
            notes.append(f"{many} no object in train: {', '.join(absent[:20])}{more}")
        if note := uneven(catalogue, counts, "objects", ignore_absent=True):
            notes.append(note)
        return notes


def as_prediction(target: Target) -> Prediction:
    """The ground truth as a Prediction without scores, which can be drawn."""
    return Prediction(boxes=target.boxes, labels=target.labels, masks=target.masks, keypoints=target.keypoints)


def with_boxes(prediction: Prediction) -> Prediction:
    """The prediction with boxes around its masks or its keypoints, if it has no boxes."""
    if prediction.boxes is not None:
        return prediction
    if prediction.masks is not None:
        return replace(prediction, boxes=prediction.masks.boxes())
    boxes: list[Tensor] = []
    for points in [] if prediction.keypoints is None else prediction.keypoints:
        scored = points[points[:, 2] > 0] if (points[:, 2] > 0).any() else points
        boxes.append(torch.cat([scored[:, :2].amin(0), scored[:, :2].amax(0)]))
    return replace(prediction, boxes=torch.stack(boxes) if boxes else torch.zeros(0, 4))


def _size_table(catalogue: Catalogue, targets: Mapping[str, Sequence[Target]]) -> Table:
    table = Table("objects", *catalogue.splits)
    rows: dict[str, list[str]] = {}
    for split in catalogue.splits:
        members = targets.get(split, [])
        boxes = torch.cat([t.boxes for t in members if t.boxes is not None] or [torch.zeros(0, 4)])
        areas = torch.cat([t.areas for t in members if t.areas is not None] or [torch.zeros(0)])
        numbers = [len(t.boxes) for t in members if t.boxes is not None]
        count = max(1, len(areas))
        for name, text in (
            ("per image", _range(numbers)),
            ("images without any", str(numbers.count(0))),
            ("crowd regions", str(sum(int(t.crowd.sum()) for t in members if t.crowd is not None))),
            ("box width", _range((boxes[:, 2] - boxes[:, 0]).tolist())),
            ("box height", _range((boxes[:, 3] - boxes[:, 1]).tolist())),
            ("small, area < 32²", f"{(areas < SMALL_AREA).sum() / count:.1%}"),
            ("medium", f"{((areas >= SMALL_AREA) & (areas < LARGE_AREA)).sum() / count:.1%}"),
            ("large, area ≥ 96²", f"{(areas >= LARGE_AREA).sum() / count:.1%}"),
        ):
            rows.setdefault(name, []).append(text)
    for name, texts in rows.items():
        table.add_row(name, *texts)
    return table


def _range(values: Sequence[float]) -> str:
    if not values:
        return "none"
    low, high, median = (f"{round(v, 1):g}" for v in (min(values), max(values), statistics.median(values)))
    return f"{low} to {high}, median {median}"


def _threshold_note(metrics: Mapping[str, Any]) -> str:
    source = metrics.get("threshold_from", "")
    reason = f"is the one with the best {source} F1 on these images".replace("  ", " ")
    if source == "default":
        reason = "is the default, because no threshold gives a useful F1 on these images"
    return (
        "<p>Precision, recall and F1 of the detections whose score reaches a threshold: "
        f"{metrics['threshold']:.3f} {reason}.</p>"
    )


def _precision_recall(by_iou_type: Mapping[str, Any], classes: Sequence[str]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.6, 3.7 * len(by_iou_type)), 3.6), layout="constrained")
    recalls = [i / 100 for i in range(101)]
    all_axes = figure.subplots(1, len(by_iou_type), squeeze=False)[0]
    for axes, (iou_type, curves) in zip(all_axes, by_iou_type.items(), strict=True):
        for name, precision in zip(classes, curves["50"]["classes"], strict=True):
            if precision is None or len(classes) == 1:
                continue
            if len(classes) <= COLOURED_CURVES:
                label = fonts.drawable(name).replace("$", r"\$").replace("_", " _", name[:1] == "_")  # a "_" hides it
                axes.plot(recalls, precision, linewidth=1, alpha=0.8, label=label)
            else:
                axes.plot(recalls, precision, linewidth=1, alpha=0.2, color="tab:blue")
        for iou, style in (("50", "-"), ("75", "--")):
            if curves[iou]["mean"] is not None:
                label = f"all, {'OKS' if iou_type == 'keypoints' else 'IoU'} 0.{iou}"
                axes.plot(recalls, curves[iou]["mean"], "k", linestyle=style, linewidth=2, label=label)
        axes.set(xlim=(0, 1.01), ylim=(0, 1.04), xlabel="recall", ylabel="precision", title=iou_type)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="x-small", loc="lower left")
    return figure


def _by_threshold(metrics: Mapping[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    from vertebra.viz import plots

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    curve = metrics["curve"]
    for name in ("precision", "recall", "f1"):
        defined = [(s, v) for s, v in zip(curve["score"], curve[name], strict=True) if v is not None]
        if defined:
            axes.plot(*zip(*defined, strict=True), label=plots.HEADINGS.get(name, name))
    threshold = metrics["threshold"]
    axes.axvline(threshold, color="grey", linewidth=1, linestyle=":", label=f"threshold, {threshold:.3f}")
    axes.set(xlim=(curve["score"][0], curve["score"][-1]), ylim=(0, 1.04), xlabel="score threshold")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def _same_objects(prediction: Prediction, other: Prediction) -> Tensor:
    """[N, M] bool: whether an object of one prediction is one of the other."""
    from torchvision.ops import box_iou  # a second of imports that nothing else here needs

    (boxes, labels, scores), (other_boxes, other_labels, other_scores) = map(_rows, (prediction, other))
    same = (labels[:, None] == other_labels) & ((scores[:, None] - other_scores).abs() <= SAME_SCORE)
    same &= box_iou(boxes, other_boxes) >= SAME_IOU
    if prediction.keypoints is not None and other.keypoints is not None:
        sides = (boxes[:, 2:] - boxes[:, :2]).amax(1)
        apart = (prediction.keypoints[:, None, :, :2] - other.keypoints[None, :, :, :2]).norm(dim=3).amax(2)  # [N, M]
        same &= apart <= SAME_POINT * sides[:, None]
    if prediction.masks is not None and other.masks is not None:
        for i, j in same.nonzero().tolist():
            one, two = prediction.masks[i], other.masks[j]
            same[i, j] = int((one & two).sum()) >= SAME_IOU * int((one | two).sum())
    return same


def _rows(prediction: Prediction) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [N, 4], labels [N] and scores [N] of the objects."""
    assert prediction.boxes is not None
    assert prediction.labels is not None
    assert prediction.scores is not None
    return prediction.boxes, prediction.labels, prediction.scores
