"""A model and an image to the maps of pixels that its answers depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vertebra import kinds
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError, in_range, nearest, one_of, shown
from vertebra.export import is_exported
from vertebra.files import replacing
from vertebra.images import frame_of, pad_batch, placement, prepare, read_image
from vertebra.kinds import Kind
from vertebra.predict.explain.techniques import techniques
from vertebra.structures import Answer, Frame, Preprocess
from vertebra.tasks import Task
from vertebra.viz import explanations

DEFAULT = ("grad_cam",)
"""Techniques where none are chosen."""


@dataclass(repr=False, eq=False)
class Explanation:
    """How much each pixel of an image counts for one answer of a model, by one technique."""

    path: str
    """File of the image; empty for pixels."""
    image: Tensor
    """[C, H, W] uint8."""
    answer: Answer
    """In pixels of the image."""
    technique: str
    """Name of its file."""
    map: Tensor
    """[H, W] float32 in 0..1, for the pixels of the image; 0 for those that the model does not see."""

    @property
    def title(self) -> str:
        """The technique's name in captions."""
        return str(techniques()[self.technique].TITLE)

    def plot(self) -> Image.Image:
        """The image under the colours of the map: RGB."""
        return explanations.overlay(self.image, self.map)

    def __repr__(self) -> str:
        return f"Explanation({self.technique} of {self.answer.name}, {self.map.shape[1]}x{self.map.shape[0]})"


class Explainer:
    """Explains the answers of one model, image by image."""

    def __init__(
        self,
        model: Task | str | Path,
        techniques: Sequence[str] = DEFAULT,
        *,
        device: str | None = None,
        **options: Any,
    ) -> None:
        """See `vertebra.explain`; `options` are those of the techniques, None where they are not chosen."""
        if not isinstance(model, Task | str | Path):
            raise VertebraError(
                f"a {type(model).__name__} cannot be explained: give the path of its checkpoint, or a task's model."
            )
        if is_exported(model):
            raise VertebraError(f"{model} is exported, without gradients: give the checkpoint that it came from.")
        self.task = model if isinstance(model, Task) else checkpoint.load(model, device=device)[0]
        if self.kind.instead:
            raise VertebraError(f"a model for {self.task.task_name} {self.kind.instead}.")
        self.techniques = _chosen(techniques, {key: value for key, value in options.items() if value is not None})

    @property
    def kind(self) -> Kind:
        """What is predicted."""
        return kinds.find(self.task.kind)

    def __call__(
        self,
        image: Any,
        *,
        classes: Sequence[str] = (),
        point: Sequence[int] | None = None,
        keypoint: str = "",
        top: int = 1,
    ) -> list[Explanation]:
        """The explanations of an image by every technique, answer by answer; none if the model has no such answer.

        Args:
            image: a path, PIL image, array or tensor, as `vertebra.load(...).predict` takes it.
            classes, point, keypoint, top: see `vertebra.explain`.
        """
        labels = self.labels(classes)
        in_range("top", top, 1)
        for name, value in (("point", point), ("keypoint", keypoint or None)):
            if value is not None:
                kinds.check_option(name, self.task)
        preprocess = self.task.preprocess
        pixels = read_image(image, preprocess.channels)
        size = (pixels.shape[1], pixels.shape[2])
        frame = frame_of(size, preprocess)
        batch = pad_batch([prepare(pixels, preprocess)], preprocess)
        (prediction,) = self.task.evaluated(self.task.infer, batch, [frame])
        answers = self.kind.answers(
            prediction,
            self.task.classes,
            labels=labels,
            point=None if point is None else _inside(point, size),
            keypoint=keypoint,
            keypoints=self.task.keypoints,
            top=top,
        )
        path = str(image) if isinstance(image, str | Path) else ""
        return [
            Explanation(path, pixels, answer, name, self._map(name, options, batch, frame, answer))
            for answer in answers
            for name, options in self.techniques.items()
        ]

    def labels(self, classes: Sequence[str]) -> list[int]:
        """The indices of classes; VertebraError if the model does not have one of them."""
        known = self.task.classes
        for name in classes:
            if name not in known:
                raise VertebraError(f"the model has no class {shown(name)}.{nearest(name, known)}")
        return [known.index(name) for name in classes]

    def _map(self, name: str, options: dict[str, Any], batch: Tensor, frame: Frame, answer: Answer) -> Tensor:
        """The map of an answer for the image that lies in a batch of one as `frame` says: [H, W] float32."""
        preprocess = self.task.preprocess
        here = answer.moved(*placement(frame, preprocess))

        def score(images: Tensor) -> Tensor:
            return self.task.answer_score(self.task(images, [frame.resized] * len(images)), here, frame.resized)

        with self.task.eval_mode():
            device = next(self.task.parameters()).device
            weights = techniques()[name].explain(self.task, batch.to(device), score, **options)
        return _in_image(weights[0].detach().cpu(), frame, preprocess)


def _chosen(names: Sequence[str], options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The options of each technique; VertebraError if there is no such technique, or none has an option."""
    known = techniques()
    if isinstance(names, str) or not names:
        raise VertebraError(f"techniques is {shown(names)}; it is a list of {', '.join(known)}.")
    for name in names:
        one_of("techniques", name, known)
    taken = {name: signature(known[name].explain).parameters for name in names}
    for key in options:
        if not any(key in parameters for parameters in taken.values()):
            takers = [name for name, module in known.items() if key in signature(module.explain).parameters]
            raise VertebraError(f"{key} is an option of {' and '.join(takers)}, not of {', '.join(names)}.")
    return {
        name: {key: value for key, value in options.items() if key in parameters} for name, parameters in taken.items()
    }


def _inside(point: Sequence[int], size: tuple[int, int]) -> tuple[int, int]:
    """x and y of a pixel of an image of (height, width) `size`; VertebraError if it is none."""
    height, width = size
    if len(point) != 2 or not all(isinstance(value, int) for value in point):
        raise VertebraError(f"point is {shown(point)}; it is x, y of a pixel: two whole numbers.")
    x, y = point
    if not (0 <= x < width and 0 <= y < height):
        raise VertebraError(f"point is {x}, {y}; the image has {width} x {height} pixels, counted from 0, 0.")
    return x, y


def _in_image(weights: Tensor, frame: Frame, preprocess: Preprocess) -> Tensor:
    """A map [h, w] of the input as one of the image [H, W], bilinear, 0 for what the input does not show."""
    (across, down), (right, below) = placement(frame, preprocess)
    seen = Image.fromarray(weights.float().numpy())
    size = (frame.original[1], frame.original[0])
    matrix = (across, 0.0, right, 0.0, down, below)  # from pixels of the image to those of the input
    placed = seen.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(placed))


def save_sheet(path: Path, explained: Sequence[Explanation]) -> None:
    """Writes the explanations of one image as a PNG: a row per answer, of the image and the maps side by side."""
    rows: dict[int, list[tuple[str, Image.Image]]] = {}
    for explanation in explained:
        answer = explanation.answer
        row = rows.setdefault(id(answer), [(answer.name, explanations.marked(explanation.image, answer))])
        row.append((explanation.title, explanation.plot()))
    with replacing(path) as temporary:
        explanations.grid(list(rows.values())).save(temporary, "PNG")
