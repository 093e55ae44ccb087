"""The contract that every task keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from vertebra import pictures, weights
from vertebra.backbones import Backbone
from vertebra.errors import check_choices
from vertebra.structures import Frame, Prediction, Preprocess, Target


class Metrics(Protocol):
    """What a task is judged by: collects over batches and processes, then answers."""

    labels: Mapping[str, str]
    """What to call each scalar on screens and in reports, the most telling first."""

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> None: ...

    def compute(self) -> dict[str, Any]:
        """Scalars by name; lists and matrices may stand beside them for the report."""
        ...

    def row(self, prediction: Prediction, target: Target) -> dict[str, Any]:
        """One picture's entry in an evaluation, plain JSON; `error` is how wrong the prediction is, 0 if not at all."""
        ...

    def reset(self) -> None: ...


class Task(nn.Module):
    """A backbone with a head for one question. Engine, exporter and server know nothing else about it.

    A task writes `loss`, `forward`, `infer` and `metrics`; predicting from pictures is the same for all.
    """

    name: ClassVar[str]
    """The task's folder, and its word on the command line."""
    best: ClassVar[str]
    """The metric that picks the best checkpoint; higher is better."""
    truth: ClassVar[str]
    """The field of Target that it learns from: `label`, `boxes`, `masks` or `keypoints`."""
    resizes: ClassVar[tuple[str, ...]] = ("crop", "squash")
    """The ways of Preprocess.resize that it can do with, the usual one first."""

    backbone: Backbone
    report: weights.Report | None = None
    """What became of the checkpoint that the task was created from, if there was one."""

    def __init__(self, config: Any, classes: Sequence[str], preprocess: Preprocess) -> None:
        super().__init__()
        check_choices(config)
        self.config = config
        self.classes = tuple(classes)
        self.preprocess = preprocess

    @classmethod
    def prepares(cls, known: Preprocess, backbone: str) -> Preprocess:
        """What is done to pictures if nothing else is said, where `known` is what the backbone's weights, or the
        checkpoint, come with."""
        return known

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Named terms whose sum is minimised; images [B, C, H, W] float32, normalised, and targets in their pixels."""
        raise NotImplementedError

    def infer(self, images: Tensor, frames: Sequence[Frame]) -> list[Prediction]:
        """Predictions for a batch that `pictures.prepare_all` made, each in pixels of its own picture, on the CPU."""
        raise NotImplementedError

    def metrics(self) -> Metrics:
        """A fresh collector."""
        raise NotImplementedError

    def predict(self, images: Any) -> list[Prediction]:
        """Predictions for pictures, in eval mode and without gradients.

        Args:
            images: one picture or a sequence of them: path, PIL image, array [H, W, C], or tensor [C, H, W]
                (uint8, or floats in 0..1). A tensor [B, C, H, W] is a batch of such.

        Raises:
            VertebraError: if one cannot be read.
        """
        many = pictures.listed(images)
        return self.apply_to(many, self.infer) if many else []

    def apply_to(self, images: Any, function: Callable[[Tensor, Sequence[Frame]], Any]) -> Any:
        """`function` of the prepared pictures [B, C, H, W] and their frames, in eval mode and without gradients."""
        batch, frames = pictures.prepare_all(pictures.listed(images), self.preprocess)
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with torch.inference_mode():
                return function(batch.to(next(self.parameters()).device), frames)
        finally:
            for module, mode in modes.items():
                module.training = mode

    def load(self, where: str | Path, *, source: str | None = None, partial: bool = False) -> weights.Report:
        """Fills the task's model from a checkpoint; arguments, report and errors as `Backbone.load`."""
        state, report = self.backbone.read(where, source)
        own = self.state_dict()
        state = {k if k in own or k.startswith("head.") else f"backbone.{k}": v for k, v in state.items()}

        def adapt(name: str, tensor: Tensor, shape: torch.Size) -> tuple[Tensor, str] | None:
            return self.backbone.adapt(name.removeprefix("backbone."), tensor, shape)

        weights.load(self, state, report, adapt=adapt, partial=partial)
        if changed := self.backbone.settle(report):
            options = {**self.config.backbone_options, **changed}
            self.config = dataclasses.replace(self.config, backbone_options=options)
        return report

    def describe(self) -> Mapping[str, Any]:
        """Everything besides the weights that `vertebra.load` needs to build the task again; plain JSON."""
        return {
            "task": self.name,
            "model": dataclasses.asdict(self.config),
            "classes": list(self.classes),
            "preprocess": dataclasses.asdict(self.preprocess),
        }


def as_tuples(value: Any) -> Any:
    """Lists as the tuples that they were before JSON."""
    return tuple(as_tuples(each) for each in value) if isinstance(value, list) else value
