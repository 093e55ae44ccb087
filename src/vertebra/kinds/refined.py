"""The results of any tool with refined masks, judged before and after."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vertebra.data.catalogue import Catalogue, Sample
from vertebra.errors import VertebraError
from vertebra.files import replacing
from vertebra.images import UnreadableImage, read_image
from vertebra.kinds.results import MaskResults, RefinedImage
from vertebra.metrics.boundary import TOLERANCE, boundary_f
from vertebra.metrics.evaluation import written
from vertebra.progress import busy, track
from vertebra.structures import Masks, Prediction, Target
from vertebra.viz.borders import Borders

if TYPE_CHECKING:
    from vertebra.refine import Refiner

IOU_TYPES = ("mask", "boundary")


@dataclass
class Refinement:
    """What was refined, and how good the masks were before and after."""

    images: int = 0
    """With masks."""
    masks: int = 0
    patches: int = 0
    seconds: float = 0.0
    """Of reading, refining, judging and writing."""
    changed: int = 0
    """Masks that are not as they were."""
    unchanged: Counter[str] = field(default_factory=Counter)
    """The others, by reason: `empty`, `full`, `in unreadable images` or `same`."""
    unreadable: list[str] = field(default_factory=list)
    """One sentence per image that could not be read."""
    before: dict[str, float | None] = field(default_factory=dict)
    """Metrics of the coarse masks by display name, the most important first, None if undefined; empty without ground
    truth."""
    after: dict[str, float | None] = field(default_factory=dict)
    """The same of the refined masks."""

    def summary(self) -> str:
        """One line: what was done, and how fast."""
        same = sum(self.unchanged.values())
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.unchanged.items() if reason != "same")
        return (
            f"{self.changed} of {self.masks} masks changed in {self.images} images, {same} as they were"
            f"{f' ({reasons})' if reasons else ''}; {self.patches} patches, "
            f"{self.patches / max(1e-9, self.seconds):.3g} patches/s"
        )


def refine_results(
    results: MaskResults,
    catalogue: Catalogue,
    split: str,
    refiner: Refiner,
    folder: Path,
    *,
    title: str,
    max_detections: int = 100,
    strict: bool = False,
) -> Refinement:
    """Refines the masks of results image by image, writes them in their form, and a report with them.

    In `folder` are then the results under their name and report.html, with borders before and after; if the dataset has
    ground truth masks also refinement.json, with the metrics of both.

    Args:
        results: of the images of the split.
        catalogue: the dataset.
        split: its split.
        refiner: refines the masks.
        folder: exists.
        title: of the report.
        max_detections: top-scoring masks judged per image and class.
        strict: whether the first unreadable image is an error; else its masks stay as they are.

    Raises:
        VertebraError: if results do not fit an image, or cannot be decoded or written.
    """
    run = _Run(results, catalogue, split, refiner, max_detections, strict)
    start, patches = time.perf_counter(), refiner.counts.patches
    results.save(folder, run.images())
    refinement = run.refinement
    refinement.patches, refinement.seconds = refiner.counts.patches - patches, time.perf_counter() - start
    if run.judge:
        with busy("computing the metrics"):
            refinement.before, refinement.after = run.judge.compute()
        with replacing(folder / "refinement.json") as temporary:
            temporary.write_text(json.dumps(_as_json(refinement), indent=1))
    _write_report(folder / "report.html", title, refinement, run.borders)
    return refinement


class _Run:
    """Refines the masks of a split and judges them."""

    def __init__(
        self,
        results: MaskResults,
        catalogue: Catalogue,
        split: str,
        refiner: Refiner,
        max_detections: int,
        strict: bool,
    ) -> None:
        self.results, self.samples, self.refiner, self.strict = results, catalogue.split(split), refiner, strict
        self.refinement, self.borders = Refinement(), Borders()
        classes = len(catalogue.classes) if results.labelled else 1
        self.judge = Judge(classes, max_detections) if "masks" in catalogue.has else None

    def images(self) -> Iterator[RefinedImage]:
        """Every image that has masks, refined; if there is ground truth the others are judged too."""
        chosen = [i for i in range(len(self.samples)) if self.judge or self.results.count(i)]
        patches = self.refiner.counts.patches
        for index in track(chosen, "refining", counted=(lambda: self.refiner.counts.patches - patches, "patches")):
            sample, coarse = self.samples[index], self.results.prediction(index)
            image, refined = self._refine(sample, coarse)
            assert coarse.masks is not None
            assert refined.masks is not None
            changed = [i for i in range(len(coarse)) if _differ(coarse.masks, refined.masks, i)]
            self._count(coarse.masks, changed, image)
            pairs = self._judge(sample, coarse, refined, changed)
            if image is not None:
                self._draw(image, sample, coarse.masks, refined.masks, changed, pairs)
            if len(coarse):
                self.refinement.images += 1
                yield RefinedImage(index, refined.masks, changed)

    def _refine(self, sample: Sample, coarse: Prediction) -> tuple[Tensor | None, Prediction]:
        """The image, None if it was not needed or cannot be read, and the prediction with refined masks."""
        if not len(coarse):
            return None, coarse
        try:
            image = read_image(sample.image, self.refiner.channels)
        except UnreadableImage as error:
            if self.strict:
                raise VertebraError(f"{error} (without --strict its masks stay as they are)") from error
            self.refinement.unreadable.append(str(error))
            return None, coarse
        size = (image.shape[1], image.shape[2])
        if size != coarse.size:
            assert coarse.size is not None
            raise VertebraError(
                f"{sample.target.path}: the image is {size[0]} x {size[1]} pixels, its masks are for "
                f"{coarse.size[0]} x {coarse.size[1]} (height x width)."
            )
        return image, self.refiner(image, coarse)

    def _count(self, coarse: Masks, changed: Sequence[int], image: Tensor | None) -> None:
        self.refinement.masks += len(coarse)
        self.refinement.changed += len(changed)
        for i in sorted(set(range(len(coarse))) - set(changed)):
            area, pixels = int(coarse.crops[i].sum()), coarse.size[0] * coarse.size[1]
            read = "same" if image is not None else "in unreadable images"
            self.refinement.unchanged["empty" if not area else "full" if area == pixels else read] += 1

    def _judge(
        self, sample: Sample, coarse: Prediction, refined: Prediction, changed: Sequence[int]
    ) -> dict[int, Pair]:
        if self.judge is None:
            return {}
        assert coarse.size is not None
        target = sample.load_target(coarse.size)
        if not self.results.labelled:
            assert target.labels is not None
            target = replace(target, labels=torch.zeros_like(target.labels))
        return self.judge.add(coarse, refined, target, changed)

    def _draw(
        self,
        image: Tensor,
        sample: Sample,
        coarse: Masks,
        refined: Masks,
        changed: Sequence[int],
        pairs: dict[int, Pair],
    ) -> None:
        for i in changed:
            masks = {"coarse": (coarse, i), "refined": (refined, i)}
            caption = f"{Path(sample.target.path).name}, mask {i + 1}"
            if pair := pairs.get(i):
                masks["ground truth"] = (pair.objects, pair.index)
                caption += f": boundary F {written(pair.before)} before, {written(pair.after)} after"
                self.borders.add(pair.after - pair.before, image, masks, caption)
            elif not self.judge:
                self.borders.add(1 - boundary_f(coarse, i, refined, i), image, masks, caption)


def _differ(coarse: Masks, refined: Masks, i: int) -> bool:
    """Whether two masks that are cropped to their pixels differ."""
    first, second = coarse.crops[i], refined.crops[i]
    if not first.numel() and not second.numel():
        return False
    return coarse.corners[i] != refined.corners[i] or not torch.equal(first, second)


@dataclass(frozen=True)
class Pair:
    """An instance and its object, and how well their boundaries agree."""

    objects: Masks
    index: int
    """The object among them."""
    before: float
    """Boundary F of the coarse mask."""
    after: float
    """Boundary F of the refined mask."""


class Judge:
    """Mask AP, boundary AP and boundary F of coarse and of refined masks.

    Boundary F is the mean over the instances whose coarse mask has an object by COCO's rules, at IoU 0.5 or more; it is
    of the same pairs before and after.
    """

    def __init__(self, num_classes: int, max_detections: int = 100) -> None:
        from vertebra.metrics.coco import CocoMetrics

        self.metrics = [CocoMetrics(num_classes, IOU_TYPES, max_detections=max_detections) for _ in range(2)]
        self.pairs: list[tuple[float, float]] = []

    def add(self, coarse: Prediction, refined: Prediction, target: Target, changed: Sequence[int]) -> dict[int, Pair]:
        """Judges an image; of each instance that has an object, by its index, returns the pair.

        Args:
            coarse: masks, labels and scores.
            refined: the same with other masks.
            target: in pixels of the image.
            changed: the masks that differ.
        """
        from vertebra.metrics.coco.match import match_image, similarity_matrix

        assert coarse.scores is not None
        assert coarse.masks is not None
        assert refined.masks is not None
        assert target.masks is not None
        order = torch.argsort(coarse.scores, descending=True, stable=True).tolist()
        for metrics, prediction in zip(self.metrics, (coarse, refined), strict=True):
            metrics.update([prediction.take(order)], [target])
        image = self.metrics[0].images[-1]
        similarity = similarity_matrix(image, "mask", self.metrics[0].sigmas)
        matched = match_image(image, torch.ones(len(order), dtype=torch.bool).numpy(), similarity, "mask")
        pairs: dict[int, Pair] = {}
        for i, j in zip(order, matched.tolist(), strict=True):
            if j >= 0:
                before = after = boundary_f(coarse.masks, i, target.masks, j)
                if i in changed:
                    after = boundary_f(refined.masks, i, target.masks, j)
                pairs[i] = Pair(target.masks, j, before, after)
                self.pairs.append((before, after))
        return pairs

    def compute(self) -> tuple[dict[str, float | None], dict[str, float | None]]:
        """The metrics before and after by display name, the most important first; None if undefined."""
        numbers = []
        for i, metrics in enumerate(self.metrics):
            computed, values = metrics.compute(), [pair[i] for pair in self.pairs]
            named = [(name, computed.get(key)) for key, name in metrics.names.items() if key.startswith(IOU_TYPES)]
            mean = sum(values) / len(values) if values else None
            numbers.append(dict([*named[:6], ("boundary F", mean), *named[6:]]))
        return numbers[0], numbers[1]


def _as_json(refinement: Refinement) -> dict[str, Any]:
    names = ("images", "masks", "patches", "seconds", "changed", "unchanged", "unreadable", "before", "after")
    return {name: getattr(refinement, name) for name in names}


def _write_report(path: Path, title: str, refinement: Refinement, borders: Borders) -> None:
    from vertebra.viz import report

    parts = [f"<h1>{escape(title)}</h1>", f"<p>{escape(refinement.summary())}.</p>"]
    if refinement.before:
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{written(before, 4)}</td><td>{written(after, 4)}</td>"
            f"<td>{change(before, after)}</td></tr>"
            for name, before, after in rows_of(refinement)
        )
        head = "<tr><th>metric</th><th>before</th><th>after</th><th>change</th></tr>"
        parts += [f"<table>{head}{rows}</table>", f"<p>{escape(NOTE)}</p>"]
    parts += borders.sections()
    if refinement.unreadable:
        items = "".join(f'<li class="bad">{escape(sentence)}</li>' for sentence in refinement.unreadable)
        parts.append(f"<h2>Images that cannot be read</h2><ul>{items}</ul>")
    report.write_page(path, title, parts)


NOTE = (
    "Boundary AP: by the IoU of the pixels of both masks up to 0.02 of the image's diagonal from their boundaries. "
    f"Boundary F: mean over the instances that have an object at IoU 0.5, with a tolerance of {TOLERANCE} pixel."
)


def rows_of(refinement: Refinement) -> list[tuple[str, float | None, float | None]]:
    """Each metric before and after."""
    return [(name, before, refinement.after[name]) for name, before in refinement.before.items()]


def change(before: float | None, after: float | None) -> str:
    """The difference with its sign, as a table shows it."""
    return "–" if before is None or after is None else f"{after - before:+.4f}"
