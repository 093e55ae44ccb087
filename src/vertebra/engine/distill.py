"""Distillation: a student learns a teacher's answers, beside the labels or without them.

Sources: Distilling the Knowledge in a Neural Network, arXiv:1503.02531 (soft); Training data-efficient image
transformers, arXiv:2012.12877, section 4 (hard, and the distillation token); Beyond Self-Supervision, arXiv:2103.05959
(SSLD); FitNets, arXiv:1412.6550 (features through an adapter).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cosine_similarity,
    cross_entropy,
    interpolate,
    logsigmoid,
)

from vertebra import kinds, tasks
from vertebra.data import soft_labels
from vertebra.data.catalogue import Sample
from vertebra.data.loader import Batch
from vertebra.engine import checkpoint
from vertebra.engine.settings import Distill, Settings
from vertebra.errors import VertebraError, shown
from vertebra.files import expanded
from vertebra.images import StoredImage, UnreadableImage, find_images
from vertebra.kinds import Kind
from vertebra.kinds.pseudo_labels import AnnotationsWriter, LabelMapsWriter
from vertebra.options import changed as changed_options
from vertebra.structures import Level, Target
from vertebra.tasks import Task, inputs
from vertebra.tasks.base import BackboneTask

ONE_SIZE = ("crop", "squash", "fit", "box")
"""Values of Preprocess.resize with which all inputs have the preprocessing's size."""


# -- losses


def soft(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    *,
    independent: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    """Kullback-Leibler divergence of the student's probabilities from the teacher's, both at a temperature, times its
    square: logits [B, num_classes, ...] -> [], the mean over images and cells.

    Args:
        independent: whether each class has a distribution of its own, by the sigmoid; their divergences are summed.
        weights: [B, ...] of the cells in the mean; all alike if None.

    Source: arXiv:1503.02531, section 2.
    """
    divergence: Tensor | float = 0.0
    for mine, theirs in _log_probabilities(student / temperature, teacher / temperature, independent):
        divergence = divergence + (theirs.exp() * (theirs - mine)).sum(1)
    assert isinstance(divergence, Tensor)
    return temperature**2 * _mean(divergence, weights)


def hard(student: Tensor, teacher: Tensor, *, independent: bool = False, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy with the teacher's top class, or of independent classes with those that it finds more probable than
    not; arguments as for `soft`.

    Source: arXiv:2012.12877, equation 3.
    """
    if independent:
        losses = binary_cross_entropy_with_logits(student, (teacher > 0).float(), reduction="none").sum(1)
    else:
        losses = cross_entropy(student, teacher.argmax(1), reduction="none")
    return _mean(losses, weights)


def jensen_shannon(
    student: Tensor, teacher: Tensor, *, independent: bool = False, weights: Tensor | None = None
) -> Tensor:
    """Jensen-Shannon divergence of the two distributions, in nats; arguments as for `soft`.

    Source: arXiv:2103.05959, section 3.
    """
    divergence: Tensor | float = 0.0
    for mine, theirs in _log_probabilities(student, teacher, independent):
        middle = torch.logaddexp(mine, theirs) - math.log(2)
        divergence = divergence + (mine.exp() * (mine - middle) + theirs.exp() * (theirs - middle)).sum(1) / 2
    assert isinstance(divergence, Tensor)
    return _mean(divergence, weights)


def _log_probabilities(student: Tensor, teacher: Tensor, independent: bool) -> list[tuple[Tensor, Tensor]]:
    """The logarithms of both models' probabilities of the classes, and of independent ones those of their absence."""
    if independent:
        return [(logsigmoid(sign * student), logsigmoid(sign * teacher)) for sign in (1, -1)]
    return [(student.log_softmax(1), teacher.log_softmax(1))]


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return values.mean() if values.numel() else values.sum()  # no RoI is sampled where there is no proposal
    return (values * weights).sum() / weights.sum().clamp(min=1e-6)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 less the cosine similarity of the vectors of each cell: maps [B, C, h, w] -> [], the mean over cells."""
    return 1 - cosine_similarity(student, teacher, dim=1).mean()


# -- teachers


class Teacher:
    """A model whose answers a student learns.

    It is no module, so that no optimiser trains it, no average holds it and no checkpoint of the student stores it.

    Args:
        task: the teacher's model.
        student: the student's, whose images it is given.
        name: for messages.
        named: whether its classes have their names; other libraries' checkpoints do not store them.

    Raises:
        VertebraError: if the student's images cannot be made into the teacher's input.
    """

    def __init__(self, task: Task, student: Task, name: str, *, named: bool = True) -> None:
        self.task = task.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.name, self.named = name, named
        self.classes = task.classes
        self.unscaled = task.any_size and _of_anchors(task)  # whose logits are those of the student's input
        self.preprocess, self.given = task.preprocess, student.preprocess
        if self.preprocess.channels != self.given.channels:
            raise VertebraError(
                f"teacher {name} takes images of {self.preprocess.channels} channels, the student of "
                f"{self.given.channels}: set data.channels={self.preprocess.channels}."
            )
        if not task.any_size and not self._is_resized and self.preprocess.size != self.given.size:
            raise VertebraError(
                f"teacher {name} takes inputs of {_sides(self.preprocess.size)} alone, and the student's have other "
                "shapes: set data.resize=fit."
            )

    def __deepcopy__(self, memo: Any) -> Teacher:
        return self  # it does not change

    @property
    def _is_resized(self) -> bool:
        """Whether all images of the student are resized to the one size of the teacher."""
        return self.preprocess.resize in ONE_SIZE and self.given.resize in ONE_SIZE

    def class_logits(
        self, images: Tensor, targets: Sequence[Target], regions: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Logits [B, num_classes, ...] for the student's images [B, C, H, W], or of boxes [N_i, 4] in them."""
        logits: Tensor
        if regions is None:
            size = (images.shape[2], images.shape[3]) if self.unscaled else None
            logits = self._computed(self.task.class_logits, images, size)
        else:
            height, width = self.size((images.shape[2], images.shape[3]))
            factor = images.new_tensor([width / images.shape[3], height / images.shape[2]] * 2)
            scaled = [boxes * factor for boxes in regions]
            logits = self._computed(partial(self.task.region_logits, regions=scaled), images)
        return logits

    def maps(self, images: Tensor) -> list[Tensor]:
        """The maps of the teacher's pyramid for the student's images [B, C, H, W]."""
        assert isinstance(self.task, BackboneTask)
        maps: list[Tensor] = self._computed(self.task.maps, images)
        return maps

    @torch.no_grad()
    def _computed(self, function: Callable[[Tensor], Any], images: Tensor, size: tuple[int, int] | None = None) -> Any:
        if next(self.task.parameters()).device != images.device:
            self.task.to(images.device)
        return function(self.input(images, size))

    def input(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """The teacher's input from that of the student, [B, C, H, W] normalised -> the same of another size: `size`, or
        that of its own preprocessing."""
        theirs, given = self.preprocess, self.given
        if (theirs.mean, theirs.std) != (given.mean, given.std):
            mean, std, their_mean, their_std = (
                torch.tensor(values, device=images.device)[:, None, None]
                for values in (given.mean, given.std, theirs.mean, theirs.std)
            )
            images = (images * std + mean - their_mean) / their_std
        size = size or self.size((images.shape[2], images.shape[3]))
        if size == images.shape[2:]:
            return images
        smooth = theirs.interpolation in ("bilinear", "bicubic")
        return interpolate(
            images,
            size,
            mode=theirs.interpolation,
            align_corners=False if smooth else None,
            antialias=theirs.antialias and smooth,
        )

    def size(self, given: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the teacher's input for images of the student of this size, padding included: where the
        aspect ratio is kept, the shorter sides of both preprocessings have the ratio of the two."""
        theirs = self.preprocess
        if self._is_resized:
            return theirs.size
        if theirs.resize != "shortest" or self.given.resize != "shortest":
            return given
        scale, unit = theirs.size[0] / self.given.size[0], theirs.divisor
        height, width = (max(1, round(side * scale / unit)) * unit for side in given)
        return given if scale == 1 else (height, width)


class StoredTeacher:
    """The answers of a classifier that `vertebra label` has stored, by the path of the image."""

    named = True

    def __init__(self, folder: Path) -> None:
        stored = soft_labels.read(folder)
        self.name, self.classes, self.independent = str(folder), stored.classes, stored.independent
        self.rows = {path: i for i, path in enumerate(stored.paths)}
        values = stored.probabilities
        self.logits = values.logit(1e-6) if self.independent else values.clamp(min=1e-12).log()

    def __deepcopy__(self, memo: Any) -> StoredTeacher:
        return self

    def check(self, samples: Sequence[Sample]) -> None:
        """Raises VertebraError if there is no answer for one of the samples."""
        missing = [sample.target.path for sample in samples if _absolute(sample.target.path) not in self.rows]
        if missing:
            raise VertebraError(
                f"{len(missing)} of {len(samples)} training images have no answer in {self.name}, the first is "
                f"{missing[0] or 'no file'}: run `vertebra label` on all of them."
            )

    def class_logits(
        self, images: Tensor, targets: Sequence[Target], regions: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Logits [B, num_classes] for the images that the targets are of."""
        return self.logits[[self.rows[_absolute(target.path)] for target in targets]].to(images.device)


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(path))


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"


# -- what is learned


class LogitDistiller(nn.Module):
    """The terms of a student's loss with those of the teacher's logits."""

    order: Tensor

    def __init__(self, options: Distill, teacher: Teacher | StoredTeacher, student: Task) -> None:
        super().__init__()
        self.teacher = teacher
        self.labels = options.loss != "ssld"  # whether the labels are learned too
        self.weight = 0.5 if options.weight is None else options.weight
        temperature = 1.0 if options.temperature is None else options.temperature
        losses: dict[str, Callable[..., Tensor]] = {
            "soft": partial(soft, temperature=temperature),
            "hard": hard,
            "ssld": jensen_shannon,
        }
        self.independent = student.independent_classes
        self.compare = partial(losses[options.loss], independent=self.independent)
        order = class_order(teacher.classes, student.classes, teacher.name, named=teacher.named)
        self.register_buffer("order", order, persistent=False)

    def forward(self, task: Task, batch: Batch) -> dict[str, Tensor]:
        """The terms for a training batch."""
        targets = batch.targets[: len(batch.targets) - batch.unlabelled]
        if __debug__:
            inputs.check(task, batch.images[: len(targets)], targets)
        terms, logits, regions = task.loss_and_class_logits(batch.images, targets)
        # Without labels all classifiers learn of the teacher, with labels the one that is meant for it.
        mine = logits[:, -1] if self.labels else logits.mean(1)
        theirs = self.teacher.class_logits(batch.images, batch.targets, regions)
        background = range(len(self.order), theirs.shape[1])
        theirs = theirs[:, torch.cat((self.order, self.order.new_tensor(background)))].float()
        weights = None
        if mine.ndim == 3:  # anchors, nearly all of which are background
            weights = theirs.sigmoid().amax(1)
        elif mine.shape[2:] != theirs.shape[2:]:
            theirs = interpolate(theirs, mine.shape[2:], mode="bilinear")
        value = self.compare(mine.float(), theirs, weights=weights)
        if not self.labels:
            return {"distillation": value}
        shared = task.class_terms or terms.keys()
        labels = {name: (1 - self.weight) * term if name in shared else term for name, term in terms.items()}
        return labels | {"distillation": self.weight * value}


class FeatureDistiller(nn.Module):
    """The terms of a student's loss with those of the teacher's maps, on the levels of equal stride that both have.

    An adapter for each level, a 1x1 convolution, gives the student's map the teacher's channels. They are trained with
    the student, and are no part of it.
    """

    def __init__(self, options: Distill, teacher: Teacher, student: BackboneTask) -> None:
        super().__init__()
        self.teacher = teacher
        self.weight = 1.0 if options.weight is None else options.weight
        assert isinstance(teacher.task, BackboneTask)
        mine, theirs = student.pyramid.levels, teacher.task.pyramid.levels
        self.pairs = _equal_strides(mine, theirs)
        if not self.pairs:
            strides = [", ".join(str(level.stride) for level in levels) for levels in (theirs, mine)]
            raise VertebraError(
                f"teacher {teacher.name} has maps of stride {strides[0]}, the student of {strides[1]}: none in common."
            )
        self.adapters = nn.ModuleList(
            nn.Conv2d(mine[i].channels, theirs[j].channels, 1, bias=False) for i, j in self.pairs
        )

    def forward(self, task: Task, batch: Batch) -> dict[str, Tensor]:
        """The terms for a training batch."""
        assert isinstance(task, BackboneTask)
        with task.recording() as mine:
            terms = task.loss(batch.images, batch.targets)
        theirs = self.teacher.maps(batch.images)
        values = []
        for adapter, (i, j) in zip(self.adapters, self.pairs, strict=True):
            adapted = adapter(mine[i])
            values.append(cosine(adapted.float(), _resized(theirs[j], adapted).float()))
        return terms | {"distillation": self.weight * torch.stack(values).mean()}


def _equal_strides(mine: Sequence[Level], theirs: Sequence[Level]) -> list[tuple[int, int]]:
    """The indices of levels of equal stride; of several, as of dilated backbones, the last ones go together."""
    pairs = []
    for stride in sorted({level.stride for level in mine}):
        of_stride = ([i for i, level in enumerate(levels) if level.stride == stride][::-1] for levels in (mine, theirs))
        pairs += list(zip(*of_stride, strict=False))
    return pairs


def _resized(maps: Tensor, like: Tensor) -> Tensor:
    """Maps [B, C, h, w] on the cells of others."""
    return maps if maps.shape[2:] == like.shape[2:] else interpolate(maps, like.shape[2:], mode="bilinear")


Distiller = LogitDistiller | FeatureDistiller


def class_order(teacher: Sequence[str], student: Sequence[str], name: str, *, named: bool = True) -> Tensor:
    """The index among the teacher's classes of each class of the student: [num_classes] int64.

    As many classes that are not `named` are taken to be those of the student in their order.

    Raises:
        VertebraError: if they are not the same classes.
    """
    if not named and len(teacher) == len(student):
        return torch.arange(len(student))
    index = {label: i for i, label in enumerate(teacher)}
    missing = [label for label in student if label not in index]
    further = [label for label in teacher if label not in student]
    differences = [f"it lacks {_listed(missing)}"] if missing else []
    differences += [f"the data lacks {_listed(further)}"] if further else []
    if differences:
        raise VertebraError(f"teacher {name} must have the classes of the data: {' and '.join(differences)}.")
    return torch.tensor([index[label] for label in student])


def _listed(names: Sequence[str], count: int = 5) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(shown, names[:count])) + more


# -- a run's teacher and its unlabelled images


def create(
    settings: Settings, student: Task, samples: Sequence[Sample], *, written: Path | None, mixing: bool
) -> Distiller | None:
    """What a run learns of the teacher in its settings; None without one.

    Args:
        settings: of the run.
        student: its model.
        samples: that are learned, the unlabelled ones too.
        written: the file that the run writes, if it is known.
        mixing: whether images of a batch are mixed, after which stored answers do not fit them.

    Raises:
        VertebraError: if there is no such teacher, or the student cannot learn of it.
    """
    if settings.teacher is None:
        return None
    options = settings.distill
    if options.loss == "ssld":
        changed = changed_options(student.config, type(student.config)())
        given = ["balance"] if settings.balance else []
        given += [f"model.{name}" for name in changed if name.partition(".")[0] in student.label_options]
        if given:
            raise VertebraError(f"distill.loss=ssld learns no labels, so {given[0]} has no effect: leave it out.")
    folder = expanded(settings.teacher)
    if soft_labels.is_folder(folder):
        if options.loss == "features":
            raise VertebraError(f"{folder} holds probabilities, not maps: give distill.loss=features a model.")
        if mixing:
            raise VertebraError(
                f"the answers in {folder} are of single images, and the augmentation mixes images: set augment.mixup "
                "and augment.cutmix to 0, or give the model as the teacher."
            )
        stored = StoredTeacher(folder)
        stored.check(samples)
        if not kinds.find(student.kind).soft_labels:
            raise VertebraError(
                f"{folder} holds probabilities of the classes of whole images; for {student.task_name} give the model "
                "as the teacher."
            )
        _check_independence(stored.independent, str(folder), student)
        return LogitDistiller(options, stored, student)
    if any((folder / files[0]).is_file() for files in (AnnotationsWriter.files, LabelMapsWriter.files)):
        raise VertebraError(
            f"{folder} holds pseudo-labels, which are learned as the labels of a dataset: leave teacher out, and set "
            f"data.path={folder}."
        )
    task, path, named = _load(settings.teacher, student)
    _check_file(path, settings, written)
    teacher = Teacher(task, student, settings.teacher, named=named)
    if options.loss != "features":
        _check_logits(task, student, settings.teacher)
        if _of_anchors(student):
            _check_anchors(teacher, student)
        if options.loss == "ssld" and kinds.find(student.kind).objects:
            raise VertebraError("distill.loss=ssld takes no labels, from which boxes are learned: choose another one.")
        return LogitDistiller(options, teacher, student)
    for model, owner in ((task, f"teacher {settings.teacher}"), (student, "the student")):
        if not isinstance(model, BackboneTask):
            raise VertebraError(
                f"{owner} ({model.task_name} by {model.method}) has no backbone whose maps are learned."
            )
    assert isinstance(student, BackboneTask)
    return FeatureDistiller(options, teacher, student)


def _load(where: str, student: Task) -> tuple[Task, Path, bool]:
    """The model of a checkpoint, complete, its file, and whether it names its classes; of another library's, the
    student's task."""
    file = tasks.open_task_checkpoint(where, None)
    if file.about is not None:
        return checkpoint.load(file, device="cpu")[0], file.path, True
    task = tasks.plan(student.task_name, weights=where).build()
    if task.report and task.report.new:
        raise VertebraError(
            f"teacher {where} has no {task.report.new[0]}, so it is no complete model for {task.task_name}: train one "
            f"with --weights={where} first."
        )
    return task, file.path, list(task.classes) != [str(i) for i in range(len(task.classes))]


def _check_file(path: Path, settings: Settings, written: Path | None) -> None:
    """Raises VertebraError if a teacher's file is one of the student's own."""
    if written is not None and _same(path, written):
        raise VertebraError(f"teacher {path} is the file that this run writes: copy it, or choose another --output.")
    start = settings.weights and expanded(settings.weights)
    if settings.weights == settings.teacher or (start and start.exists() and _same(path, _file(start))):
        raise VertebraError(
            f"teacher {path} is the file that the student starts from: choose another teacher, or leave weights out."
        )


def _file(path: Path) -> Path:
    return path / "best.safetensors" if path.is_dir() else path


def _same(path: Path, other: Path) -> bool:
    """Whether two files have the same content."""
    return other.is_file() and path.stat().st_size == other.stat().st_size and _digest(path) == _digest(other)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_logits(teacher: Task, student: Task, name: str) -> None:
    for task in (student, teacher):
        if not task.has_class_logits:
            raise VertebraError(
                f"{task.task_name} by {task.method} has no logits of classes that a student could learn: choose "
                "distill.loss=features."
            )
    if teacher.kind != student.kind and not all(kinds.find(task.kind).objects for task in (teacher, student)):
        raise VertebraError(
            f"teacher {name} is a model for {teacher.task_name}, not for {student.task_name}: choose "
            "distill.loss=features, or a teacher of the same task."
        )
    _check_independence(teacher.independent_classes, f"{name} ({teacher.method})", student)


def _of_anchors(task: Task) -> bool:
    """Whether the class logits are those of anchors or points."""
    return kinds.find(task.kind).objects and task.independent_classes


def _check_anchors(teacher: Teacher, student: Task) -> None:
    """Raises VertebraError if the two have logits of different numbers of anchors."""
    shape = student.preprocess.channels, *((128, 128) if student.any_size else student.preprocess.size)
    training = student.training
    with torch.no_grad():
        mine, theirs = student.eval().class_logits(image := torch.zeros(1, *shape)), teacher.class_logits(image, [])
    student.train(training)
    if mine.shape[2] != theirs.shape[2]:
        raise VertebraError(
            f"teacher {teacher.name} has logits of {theirs.shape[2]} anchors for an image of {shape[1]} x {shape[2]} "
            f"pixels, the student of {mine.shape[2]}: both need the same anchors and strides, or distill.loss=features."
        )


def _check_independence(independent: bool, name: str, student: Task) -> None:
    if independent != student.independent_classes:
        forms = {True: "of every class by itself", False: "of all classes together"}
        raise VertebraError(
            f"teacher {name} has probabilities {forms[independent]}, the student ({student.method}) "
            f"{forms[not independent]}: choose another teacher, or of a model distill.loss=features."
        )


def unlabelled_samples(settings: Settings, kind: Kind, validation: Sequence[Sample]) -> list[Sample]:
    """The images of `distill.unlabelled`, without ground truth; none if it is not set.

    Raises:
        VertebraError: if there are none, one of them is a validation image too, by its content, or the kind's
            augmentation cannot do without ground truth.
    """
    if settings.distill.unlabelled is None:
        return []
    folder = expanded(settings.distill.unlabelled)
    if not kind.unlabelled:
        raise VertebraError(
            f"distill.unlabelled is for classes of whole images; {settings.task} learns {kind.description}."
        )
    if not folder.is_dir():
        raise VertebraError(f"distill.unlabelled is {shown(str(folder))}; there is no such folder.")
    images = find_images(folder)
    if not images:
        raise VertebraError(f"distill.unlabelled is {shown(str(folder))}; there are no images in it.")
    known: dict[int, dict[str, Path | StoredImage]] = {}  # by size in bytes, then by digest
    for sample in validation:
        if isinstance(path := sample.image, Path) and path.is_file():
            known.setdefault(path.stat().st_size, {})[_digest(path)] = path
        elif isinstance(stored := sample.image, StoredImage):
            with contextlib.suppress(UnreadableImage):  # reported when it is evaluated
                content = stored.read()
                known.setdefault(len(content), {})[hashlib.sha256(content).hexdigest()] = stored
    alike = [(image, same) for image in images if (same := known.get(image.stat().st_size))]
    shared = [(image, same[digest]) for image, same in alike if (digest := _digest(image)) in same]
    if shared:
        raise VertebraError(
            f"{len(shared)} of the {len(images)} images in {folder} are validation images too, the first is "
            f"{shared[0][0]}, the same as {shared[0][1]}: take them out."
        )
    return [Sample(image, Target(path=str(image))) for image in images]
