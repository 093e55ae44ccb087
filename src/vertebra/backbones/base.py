"""The contract that every backbone keeps."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vertebra import weights
from vertebra.backbones.fitting import fit_model
from vertebra.errors import VertebraError, shown
from vertebra.options import training_only
from vertebra.structures import Level


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Options of every family; a family's own Config adds its architecture."""

    channels: int = 3
    """Input channels."""
    drop_path: float = training_only(0.0)
    """Stochastic depth rate of the last block; it rises linearly from 0 at the first."""
    embedding: bool = False
    """Whether the layers that only `embed` needs are built, in families that have such."""
    level_norms: bool = False
    """Whether each map is normalised, in families whose stages end without a norm; detectors are trained with it."""
    image_size: tuple[int, int] = (224, 224)
    """Input (height, width) in pixels that position tables are made for, in families that have such."""


class Backbone(nn.Module):
    """Images to a pyramid of feature maps: [B, channels, H, W] -> list of [B, C, h, w], finest first.

    A family sets `levels` and `width`, and implements `forward_features`, `layers` and, unless it is a mean, `pool`.
    """

    levels: tuple[Level, ...]
    """Stride and channels of each map that `forward` returns."""
    width: int
    """Length of the vector that `embed` returns."""
    first_conv: ClassVar[str]
    """Name of the first convolution's weight, adapted when a checkpoint has another number of input channels."""
    embedding_only: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the parameters that exist only with `config.embedding`."""
    no_weight_decay: ClassVar[tuple[str, ...]] = ()
    """Last parts of the names of tables and tokens that are excluded from weight decay, as biases are."""
    finest_only: ClassVar[Mapping[str, Any]] = {}
    """Options with which it returns its finest map alone, in families in which that one has passed all stages."""
    any_size: ClassVar[bool] = True
    """Whether it takes images of other sizes than `config.image_size`."""
    num_classifiers: int = 1
    """Classifiers on the embedding, each on an equal part of it; their logits are averaged."""
    report: weights.Report | None = None
    """How the checkpoint that it was last filled from was used; None if there was none."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config: Any = config  # the family's own Config
        self.checkpointing = False  # set True to recompute each block in the backward pass instead of storing it

    def forward(self, images: Tensor) -> list[Tensor]:
        levels: list[Tensor] = []
        self.forward_features(images, levels.append)
        return levels

    def embed(self, images: Tensor) -> Tensor:
        """Pooled features for classification: [B, channels, H, W] -> [B, width]."""
        if self.embedding_only and not self.config.embedding:
            raise VertebraError("this backbone was built without its embedding layers: pass embedding=True.")
        return self.pool(self.forward_features(images, lambda _: None))

    def forward_features(self, images: Tensor, on_level: Callable[[Tensor], object]) -> Tensor:
        """Passes every map of the pyramid to `on_level`, finest first, and returns the last features.

        A map that `on_level` does not store is freed at once.
        """
        raise NotImplementedError

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """A context whose value holds the maps of the pyramid once images have passed in it, by `embed` too."""
        maps: list[Tensor] = []
        inner = self.forward_features

        def forward_features(images: Tensor, on_level: Callable[[Tensor], object]) -> Tensor:
            def record(level: Tensor) -> None:
                maps.append(level)
                on_level(level)

            return inner(images, record)

        self.forward_features = forward_features  # type: ignore[method-assign]
        try:
            yield maps
        finally:
            del self.forward_features

    @contextlib.contextmanager
    def sharing(self, batches: Sequence[Tensor]) -> Iterator[None]:
        """A context in which `batches` pass once, however often they are asked for: [B_i, channels, H, W] each.

        Those of one size pass together, so that batch norms see them as one batch. Tensors are known by identity; any
        other one passes as usual.
        """
        inner = self.forward_features
        passed: dict[int, tuple[list[Tensor], Any]] = {}

        def forward_features(images: Tensor, on_level: Callable[[Tensor], object]) -> Any:
            if not any(images is batch for batch in batches):
                return inner(images, on_level)
            if id(images) not in passed:
                group = [batch for batch in batches if batch.shape[1:] == images.shape[1:]]
                maps: list[Tensor] = []
                last = inner(torch.cat(group) if len(group) > 1 else images, maps.append)
                start = 0
                for batch in group:
                    part = slice(start, start := start + len(batch))
                    features = last[part] if isinstance(last, Tensor) else [x[part] for x in last]
                    passed[id(batch)] = [x[part] for x in maps], features
            levels, features = passed[id(images)]
            for level in levels:
                on_level(level)
            return features

        self.forward_features = forward_features  # type: ignore[method-assign]
        try:
            yield
        finally:
            del self.forward_features

    def pool(self, x: Tensor) -> Tensor:
        """The embedding, from the features that `forward_features` returns: -> [B, width]."""
        return x.mean((2, 3))

    def rollout(self, weights: Sequence[Tensor], size: tuple[int, int], residual: float = 0.5) -> Tensor:
        """How much of the features comes from each cell, by attention alone: [B, h, w], the cells of the first layer.

        Args:
            weights: of the last attention layers, in order, each the mean over its heads: [B, N, N], for windows
                [B * windows, N, N].
            size: (height, width) of the images in pixels.
            residual: share of a layer's output that comes from the same cell without attention.

        Raises:
            VertebraError: if the family has no attention.

        Source: attention rollout, arXiv:2005.00928, section 3.
        """
        raise VertebraError(f"{type(self).__name__} has no attention maps; ViT, DeiT and Swin have.")

    def pop_last_stage(self) -> nn.Module | None:
        """Removes the last stage and returns it, [B, C, h, w] -> [B, C', h / 2, w / 2], to be run on regions; the
        pyramid then ends one level earlier. None where a stage needs the whole image."""
        return None

    def layers(self) -> list[nn.Module]:
        """Every part that holds parameters, input first, one entry per depth of layer-wise decay."""
        raise NotImplementedError

    def stage_layers(self) -> list[list[nn.Module]]:
        """`layers` by stage, input first: a layer between two stages, such as the stem, belongs to the one after it.

        A network without stages has four, with as many blocks each.
        """
        layers = self.layers()
        stages = self.stage_modules() or in_four(layers)
        number = {id(p): i for i, stage in enumerate(stages) for part in stage for p in part.parameters()}
        groups: list[list[nn.Module]] = [[] for _ in stages]
        last = len(stages) - 1
        for layer in reversed(layers):
            last = next((number[id(p)] for p in layer.parameters() if id(p) in number), last)
            groups[last].insert(0, layer)
        return groups

    def stage_modules(self) -> list[list[nn.Module]]:
        """The modules of each stage; none if it has neither stages nor blocks."""
        stages = [[stage] for stage in getattr(self, "stages", ())]
        return stages or in_four(list(getattr(self, "blocks", ())))

    def adapt(self, name: str, tensor: Tensor, shape: torch.Size) -> tuple[Tensor, str] | None:
        """A checkpoint's `tensor` for parameter `name` of another `shape`, and how; None if it does not fit."""
        if name == self.first_conv and tensor.shape[0::2] == shape[0::2]:
            return weights.adapt_channels(tensor, shape[1]), f"{tensor.shape[1]} input channels -> {shape[1]}"
        return None

    def prepare(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A foreign checkpoint's tensors by name as the rule tables take them."""
        return state

    def run_block(self, block: nn.Module, *x: Any) -> Any:
        """`block(*x)`, recomputed in the backward pass when `checkpointing` is set."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return block(*x)
        # The second pass must not update batch norm's running statistics once more.
        return checkpoint(
            block, *x, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), frozen_statistics(block))
        )

    @property
    def family(self) -> ModuleType:
        """The module that defines the class, with its RULES and WEIGHTS."""
        return sys.modules[type(self).__module__]

    def tables(self) -> dict[str, weights.Rules]:
        """The family's rule tables for this config, by source."""
        return {name: table(self.config) if callable(table) else table for name, table in self.family.RULES.items()}

    def load(
        self, where: str | Path | weights.Checkpoint, *, source: str | None = None, partial: bool = False
    ) -> weights.Report:
        """Fills the backbone from a checkpoint of a whole classifier or of this backbone.

        Args:
            where: a published checkpoint by name (a key of the family's WEIGHTS), a file, a folder or a Hub name, see
                `vertebra.weights.read`; or a checkpoint that has been read.
            source: whose names the tensors bear (a key of the family's RULES, or `vertebra`); detected if None.
            partial: whether to list tensors that do not fit instead of raising.

        Returns:
            The report of what was used, left out and newly initialised.

        Raises:
            VertebraError: if the file cannot be read, needs other options than this backbone has, or does not fit and
                `partial` is False.
        """
        from vertebra import backbones  # which imports this module

        published = backbones.published(where, getattr(self.family, "PREFIX", ""))
        opened = weights.open_checkpoint(where, published, source)
        fit = fit_model(self, opened.state, opened.source(source), opened.path, opened.about)
        adaptable = {field.name for field in dataclasses.fields(BackboneConfig)}  # they change no tensor's meaning
        other = {
            name: value
            for name, value in fit.options.items()
            if name not in adaptable and getattr(self.config, name, value) != value
        }
        if other:
            options = ", ".join(f"{name}={shown(value)}" for name, value in other.items())
            raise VertebraError(
                f"{opened.path} ({fit.report.source} names) is of a model with {options}: create the backbone with it "
                "or with weights=... of this file."
            )
        return self.fill(fit.state, fit.report, partial=partial)

    def fill(self, state: dict[str, Tensor], report: weights.Report, *, partial: bool = False) -> weights.Report:
        """Copies tensors under the backbone's own names into it; arguments and errors as `load`."""
        unwanted = {"head.": "belongs to the classifier, not to the backbone"}
        if not self.config.embedding:
            unwanted |= dict.fromkeys(self.embedding_only, "only `embed` needs it: pass embedding=True to have it")
        self.report = weights.load(self, state, report, adapt=self.adapt, unwanted=unwanted, partial=partial)
        return self.report


@contextlib.contextmanager
def frozen_statistics(block: nn.Module) -> Iterator[None]:
    """A context in which batch norms do not update their running statistics."""
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    saved = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in saved:
            norm.momentum, norm.num_batches_tracked = momentum, count


def in_four(blocks: Sequence[nn.Module]) -> list[list[nn.Module]]:
    """Four parts with as many blocks each; fewer of fewer blocks."""
    size = max(1, -(-len(blocks) // 4))
    return [list(blocks[i : i + size]) for i in range(0, len(blocks), size)]
