"""The contract of a task."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from vertebra import backbones, options, weights
from vertebra.backbones import Backbone
from vertebra.errors import VertebraError, check_choices
from vertebra.images import as_list, frame_of, pad_batch, prepare, read_image
from vertebra.structures import Answer, Frame, KeypointSchema, Prediction, Preprocess, Target
from vertebra.tasks import inputs

Size = tuple[int, int]


class Metrics(Protocol):
    """The metrics of a task: collects over batches and processes, then computes."""

    names: Mapping[str, str]
    """Display name of each scalar, the most important first."""

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> None: ...

    def compute(self) -> dict[str, Any]:
        """Scalars by name; lists and matrices may stand beside them for the report."""
        ...

    def row(self, prediction: Prediction, target: Target) -> dict[str, Any]:
        """One image's entry in an evaluation, plain JSON; `error` is 0 for a correct prediction, and larger for a worse
        one."""
        ...

    def reset(self) -> None: ...


class Task(nn.Module):
    """A model for one task. Engine, predictor and exporter know nothing else about it.

    A method writes `loss`, `forward`, `decode` and `metrics`; prediction from images is the same for all.
    """

    kind: ClassVar[str]
    """Kind of its predictions: the name of a file in `kinds/`."""
    monitor: ClassVar[str]
    """The metric that selects the best checkpoint; higher is better."""
    fixed_classes: ClassVar[tuple[str, ...]] = ()
    """The classes of every model of the task; empty where the data decides them."""
    usual_classes: ClassVar[tuple[str, ...]] = ()
    """The classes where neither the user, nor the data, nor a checkpoint names any."""
    target_fields: ClassVar[tuple[str, ...]] = ()
    """Fields of Target that `loss` needs; it raises VertebraError where one is missing or malformed. Without any, those
    that are given are checked."""
    extra_channels: ClassVar[int] = 0
    """Channels of the input after those of the image, such as a coarse mask: values in 0..1, of which 0.5 is the mean
    and the deviation."""
    unused_parameters: ClassVar[bool] = False
    """Whether a training step may leave parameters without a gradient; training on several processes must know."""
    has_class_logits: ClassVar[bool] = False
    """Whether `class_logits` and `loss_and_class_logits` are there, for distillation."""
    independent_classes: ClassVar[bool] = False
    """Whether probabilities are the sigmoid of each of the class logits, not the softmax of all."""
    class_terms: ClassVar[tuple[str, ...]] = ()
    """Terms of the loss of the classes, where others are learned from the labels alone; empty where all are of them."""
    label_options: ClassVar[tuple[str, ...]] = ()
    """Options of the config, or groups of such, that only what is learned from labels depends on."""
    no_weight_decay: tuple[str, ...] = ()
    """Last parts of the names of parameters without weight decay, besides biases and norms."""
    keeps_initial_values: ClassVar[bool] = False
    """Whether `fill` may leave a part of a parameter as it was drawn."""
    any_size: bool = True
    """Whether inputs of any size are accepted."""
    reads_sizes: ClassVar[bool] = False
    """Whether `forward` computes with `sizes`."""
    takes_batches: ClassVar[bool] = True
    """Whether exported programs take any number of images; else one."""
    decodes_with_weights: ClassVar[bool] = False
    """Whether `decode` computes with the model's weights, so that no exported program replaces the model."""
    report: weights.Report | None = None
    """How the checkpoint was used that the model was created from."""
    to_result: Callable[[Task, Prediction, Any, Tensor], Prediction] | None = None
    """Makes what `predict` returns, from a Prediction, the image as it was given and its pixels [C, H, W];
    `vertebra.create` sets one whose predictions can be drawn."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Every method's `loss` checks its arguments, unless Python runs with -O."""
        super().__init_subclass__(**options)
        if __debug__ and "loss" in vars(cls):
            cls.loss = inputs.checked(cls.loss)  # type: ignore[method-assign]

    def __init__(self, config: Any, classes: Sequence[str], preprocess: Preprocess) -> None:
        super().__init__()
        check_choices(config)
        self.config = config
        self.classes = tuple(classes)
        self.preprocess = preprocess

    @property
    def task_name(self) -> str:
        """The task's folder, and its name on the command line."""
        return type(self).__module__.split(".")[-2]

    @property
    def method(self) -> str:
        """The method's file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def keypoints(self) -> KeypointSchema | None:
        """The keypoints of every object, if the task predicts any."""
        return getattr(self.config, "keypoints", None)

    def register_class_weights(self, values: Sequence[float] | None) -> None:
        """Sets `class_weights` [C], a buffer that checkpoints do not hold, or None.

        Raises:
            VertebraError: if there is not one for each class, or all are 0.
        """
        if values is not None and len(values) != len(self.classes):
            raise VertebraError(f"{len(values)} class weights for {len(self.classes)} classes.")
        if values is not None and not any(values):
            raise VertebraError("all class_weights are 0: nothing would be learned.")
        tensor = None if values is None else torch.tensor(values, dtype=torch.float32)
        self.register_buffer("class_weights", tensor, persistent=False)
        self.class_weights: Tensor | None

    @classmethod
    def default_preprocess(cls, known: Preprocess | None, config: Any) -> Preprocess:
        """The preprocessing unless the user chooses another; `known` is that of the checkpoint."""
        return known or Preprocess()

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Named terms whose sum is minimised.

        Args:
            images: [B, C, H, W] float32, normalised.
            targets: one per image, in pixels of the input, on its device.

        Raises:
            VertebraError: if images or targets are not of that form, or a target lacks one of `target_fields`.
        """
        raise NotImplementedError

    def check_input(self, images: Any) -> None:
        """Raises VertebraError if `images` is no batch that `loss` and `infer` take."""
        inputs.check_images(self, images)

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> tuple[Tensor, ...]:
        """Raw predictions: a fixed number of tensors whose shapes do not depend on the data.

        Args:
            images: [B, C, H, W] float32, normalised.
            sizes: (height, width) of each image without its padding, in exported programs [B, 2] int64; the whole input
                if None.
        """
        raise NotImplementedError

    def outputs(self, images: Tensor, sizes: Sequence[Size] | None = None) -> tuple[Tensor, ...]:
        """What `infer` makes predictions of; arguments as for `forward`.

        This is what is exported, and what an engine that runs an exported program computes instead.
        """
        raw: tuple[Tensor, ...] = self(images, sizes)
        return raw

    @property
    def device(self) -> torch.device:
        """Where images have to be."""
        device = next(self.parameters()).device
        return torch.device("cpu") if device.type == "meta" else device  # of an engine, which has the weights

    def decode(self, raw: tuple[Tensor, ...], frames: Sequence[Frame]) -> list[Prediction]:
        """Predictions in pixels of the original images, on the CPU, from what `forward` returns."""
        raise NotImplementedError

    def infer(self, images: Tensor, frames: Sequence[Frame], *, merging: bool = False) -> list[Prediction]:
        """Predictions for a batch of prepared images [B, C, H, W] that lie in it as `frames` say.

        With `merging` they hold what the kind needs to merge those of several views or tiles of an image.
        """
        if __debug__:
            self.check_input(images)
            inputs.check_frames(images, frames)
        return self.decode(self.outputs(images, [frame.resized for frame in frames]), frames)

    def answer_score(self, raw: tuple[Tensor, ...], answer: Answer, size: Size) -> Tensor:
        """The score of one answer, by what `forward` returns: [B], with a gradient. It is what is explained.

        Args:
            raw: of B images, each of which is asked for the same answer.
            answer: in pixels of the input.
            size: (height, width) of the image in the input, without its padding.

        Raises:
            VertebraError: if the task does not say.
        """
        raise VertebraError(f"models for {self.task_name} do not say how sure they are of an answer: see answer_score.")

    def merge_objects(self, predictions: Sequence[Prediction], size: Size) -> Prediction:
        """The prediction for an image of (height, width) `size` from those of its objects, in tasks whose input shows
        one object."""
        raise NotImplementedError

    def metrics(self, **options: Any) -> Metrics:
        """A fresh collector; `options` are those of the task's kind, such as the threshold of a checkpoint."""
        raise NotImplementedError

    def parameter_layers(self) -> list[nn.Module]:
        """The trunk, input first, one entry per depth of layer-wise decay; all other parameters are the head's."""
        return []

    def parameter_stages(self) -> list[list[nn.Module]]:
        """`parameter_layers` by the stages that are frozen and unfrozen together, input first."""
        return [[layer] for layer in self.parameter_layers()]

    def checkpoint_activations(self, on: bool) -> None:
        """Recompute activations in the backward pass instead of storing them."""
        if on:
            raise VertebraError(f"{self.task_name} has no activation checkpointing: leave checkpointing out.")

    def embed(self, images: Tensor) -> Tensor:
        """Pooled features: [B, C, H, W] -> [B, width]."""
        raise VertebraError(f"{self.task_name} has no pooled features.")

    def class_logits(self, images: Tensor) -> Tensor:
        """What a student learns of a teacher, if `has_class_logits`: [B, C, H, W] -> [B, num_classes, ...], a softmax
        of which gives probabilities, or with `independent_classes` a sigmoid."""
        raise NotImplementedError

    def region_logits(self, images: Tensor, regions: Sequence[Tensor]) -> Tensor:
        """As `class_logits`, of boxes [N_i, 4] of each image in input pixels: -> [sum of N_i, num_classes + 1], the
        last one that of the background."""
        raise NotImplementedError

    def loss_and_class_logits(
        self, images: Tensor, targets: Sequence[Target]
    ) -> tuple[dict[str, Tensor], Tensor, Sequence[Tensor] | None]:
        """What `loss` returns, and the logits that learn those of a teacher, from one pass; if `has_class_logits`.

        Args:
            images: [B + U, C, H, W] float32, normalised; the last U have no target.
            targets: of the first B images.

        Returns:
            The terms, and logits [B + U, P, num_classes, ...] of P classifiers, whose mean is the model's. The first
            has learned the targets; the last is meant for a teacher's labels. Then the boxes of each image that the
            logits are of, as those of `region_logits`; None where they are of the images.
        """
        raise NotImplementedError

    def predict(self, images: Any) -> list[Prediction]:
        """Predictions for images, in eval mode and without gradients.

        Args:
            images: one image or a sequence of them: path, PIL image, array [H, W, C], or tensor [C, H, W]
                (uint8, or floats in 0..1). A tensor [B, C, H, W] is a batch of such.

        Raises:
            VertebraError: if one cannot be read, or is a file where the input has more channels than an image.
        """
        sources = as_list(images)
        if self.extra_channels and any(isinstance(source, str | Path) for source in sources):
            raise VertebraError(
                f"the input of a {self.task_name} model is an image and a coarse mask, from which it predicts a finer "
                "one: give the model to `vertebra refine`, or to vertebra.refine.Refiner."
            )
        arrays = [read_image(image, self.preprocess.channels) for image in sources]
        frames = [frame_of((image.shape[1], image.shape[2]), self.preprocess) for image in arrays]
        groups: dict[Size, list[int]] = {}  # padding must not change a prediction, so shapes are not mixed
        for i, frame in enumerate(frames):
            groups.setdefault(frame.resized, []).append(i)
        predictions: dict[int, Prediction] = {}
        for indices in groups.values():
            batch = pad_batch([prepare(arrays[i], self.preprocess) for i in indices], self.preprocess)
            results = self.evaluated(self.infer, batch, [frames[i] for i in indices])
            predictions.update(zip(indices, results, strict=True))
        ordered = [predictions[i] for i in range(len(arrays))]
        if self.to_result is None:
            return ordered
        return [self.to_result(self, *item) for item in zip(ordered, sources, arrays, strict=True)]

    def evaluated(self, function: Callable[..., Any], batch: Tensor, *arguments: Any) -> Any:
        """`function(batch, *arguments)` in eval mode and without gradients, on the model's device."""
        with self.eval_mode(), torch.inference_mode():
            return function(batch.to(self.device), *arguments)

    @contextlib.contextmanager
    def eval_mode(self) -> Iterator[None]:
        """Eval mode in the block; afterwards every module has its mode again."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def fill(self, state: Mapping[str, Tensor], report: weights.Report, *, partial: bool = False) -> weights.Report:
        """Fills the model from tensors under its own names."""
        return weights.load(self, state, report, partial=partial)

    def load(self, where: str | Path, *, source: str | None = None, partial: bool = False) -> weights.Report:
        """Fills the model from a checkpoint that computes with the model's options.

        Args:
            where: a published checkpoint by name, a file, a folder or a Hub name; see `vertebra.weights.read`.
            source: whose names the tensors have; found out if None.
            partial: whether tensors that do not fit are listed instead of being an error.

        Returns:
            The report of the tensors that were used, left out and newly initialised.

        Raises:
            VertebraError: if the file cannot be read, does not fit, or wants other options than the model has.
        """
        from vertebra import tasks  # which imports this module

        return tasks.load(self, where, source=source, partial=partial)

    def describe(self) -> Mapping[str, Any]:
        """Everything besides the weights that `vertebra.load` needs to build the model again; plain JSON."""
        return {
            "task": self.task_name,
            "method": self.method,
            "model": options.plain(self.config),
            "classes": list(self.classes),
            "preprocess": options.plain(self.preprocess),
        }


class BackboneTask(Task):
    """A task whose trunk is a backbone, `self.backbone`; `config` has `backbone` and `backbone_options`."""

    backbone: Backbone

    @property
    def any_size(self) -> bool:  # type: ignore[override]
        return self.backbone.any_size

    @property
    def no_weight_decay(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.backbone.no_weight_decay

    @classmethod
    def default_preprocess(cls, known: Preprocess | None, config: Any) -> Preprocess:
        """The checkpoint's preprocessing, else the usual one at the backbone's own input size."""
        variants = backbones.family(config.backbone).VARIANTS
        return known or Preprocess(size=variants[backbones.public_name(config.backbone)].image_size)

    def parameter_layers(self) -> list[nn.Module]:
        return self.backbone.layers()

    def parameter_stages(self) -> list[list[nn.Module]]:
        return self.backbone.stage_layers()

    def checkpoint_activations(self, on: bool) -> None:
        self.backbone.checkpointing = on

    def embed(self, images: Tensor) -> Tensor:
        return self.backbone.embed(images)

    @property
    def pyramid(self) -> Any:
        """The part whose maps a student learns of a teacher, described by its `levels`: the neck, or the backbone where
        there is none."""
        return getattr(self, "neck", self.backbone)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The maps of `pyramid`: [B, C, H, W] -> list of [B, channels, h, w], finest first."""
        maps = self.backbone(images)
        return _as_maps(maps if self.pyramid is self.backbone else self.pyramid(maps))

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """A context whose value holds the maps of `pyramid` once images have passed in it, as in `loss`."""
        if self.pyramid is self.backbone:
            with self.backbone.recording() as maps:
                yield maps
            return
        made: list[Tensor] = []
        hook = self.pyramid.register_forward_hook(lambda module, inputs, output: made.extend(_as_maps(output)))
        try:
            yield made
        finally:
            hook.remove()

    def place(self, backbone_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under the backbone's own names, those of its classifier under `head.`, as named in this model."""
        names = self.state_dict().keys()
        return {
            name if name in names or name.startswith("head.") else f"backbone.{name}": tensor
            for name, tensor in backbone_state.items()
        }

    def fill(self, state: Mapping[str, Tensor], report: weights.Report, *, partial: bool = False) -> weights.Report:
        def adapt(name: str, tensor: Tensor, shape: torch.Size) -> tuple[Tensor, str] | None:
            return self.backbone.adapt(name.removeprefix("backbone."), tensor, shape)

        return weights.load(self, state, report, adapt=adapt, partial=partial)


def _as_maps(output: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The maps of a pyramid, which may be a single one."""
    return [output] if isinstance(output, Tensor) else list(output)
