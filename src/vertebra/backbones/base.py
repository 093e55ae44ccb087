"""The contract that every backbone keeps."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vertebra import weights
from vertebra.errors import VertebraError, nearest
from vertebra.structures import Level


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """What can be asked of any family; a family's own Config adds its architecture."""

    channels: int = 3
    """Input channels."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block; it rises linearly from 0 at the first."""
    embedding: bool = False
    """Whether the layers that only `embed` needs are built, in families that have such."""
    level_norms: bool = False
    """Whether each map is normalised, in families whose stages end without a norm; detectors are trained with it."""
    image_size: tuple[int, int] = (224, 224)
    """Input (height, width) in pixels that tables of positions are made for, in families that have such."""


class Backbone(nn.Module):
    """Pictures to a pyramid of feature maps: [B, channels, H, W] -> list of [B, C, h, w], finest first.

    A family sets `levels` and `width`, and writes `walk`, `layers` and, unless it is a mean, `summary`.
    """

    levels: tuple[Level, ...]
    """Stride and channels of each map that `forward` returns."""
    width: int
    """Length of the vector that `embed` returns."""
    first: ClassVar[str]
    """Name of the first convolution's weight, adapted when a checkpoint has another number of input channels."""
    embedding_only: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the parameters that exist only with `config.embedding`."""
    undecayed: ClassVar[tuple[str, ...]] = ()
    """Last parts of the names of tables and tokens, which weight decay leaves alone as it does biases."""
    differences: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """By source, the fields of the config in which its models compute otherwise; modules that depend on such a field
    have an attribute of its name."""
    any_size: ClassVar[bool] = True
    """Whether pictures of other sizes than `config.image_size` can go in."""
    parts: int = 1
    """Equal parts of the embedding that have a classifier each, whose logits are averaged."""
    rules: ClassVar[Mapping[str, Any]]
    """The family's RULES: by source, a table or a function from the config to one."""

    published: ClassVar[Mapping[str, weights.Weights]]
    """The family's WEIGHTS: known checkpoints by name."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False  # set True to recompute each block in the backward pass instead of storing it

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        self.walk(images, maps.append)
        return maps

    def embed(self, images: Tensor) -> Tensor:
        """Pooled features for classification: [B, channels, H, W] -> [B, width]."""
        if self.embedding_only and not self.config.embedding:
            raise VertebraError("this backbone was built without its embedding layers: pass embedding=True.")
        return self.summary(self.walk(images, lambda _: None))

    def walk(self, images: Tensor, keep: Callable[[Tensor], object]) -> Tensor:
        """Shows every map of the pyramid to `keep`, returns the last features; what nobody keeps is freed at once."""
        raise NotImplementedError

    def summary(self, x: Tensor) -> Tensor:
        """What `embed` makes of the features that `walk` returns: -> [B, width]."""
        return x.mean((2, 3))

    def cut(self) -> nn.Module | None:
        """Takes the last stage off and returns it, [B, C, h, w] -> [B, C', h / 2, w / 2], so that it can be run on
        regions; the pyramid then ends a level earlier. None where a stage needs the whole picture."""
        return None

    def layers(self) -> list[nn.Module]:
        """Every part that holds parameters, input first, one entry per depth of layer-wise decay."""
        raise NotImplementedError

    def adapt(self, name: str, tensor: Tensor, shape: torch.Size) -> tuple[Tensor, str] | None:
        """A checkpoint's `tensor` for parameter `name` of another `shape`, and how; None if it does not fit."""
        if name == self.first and tensor.shape[0::2] == shape[0::2]:
            return weights.adapt_channels(tensor, shape[1]), f"{tensor.shape[1]} input channels -> {shape[1]}"
        return None

    def differing(self, source: str) -> Mapping[str, Any]:
        """The fields of the config in which models of a source, or of a table of it, compute otherwise."""
        return self.differences.get(source, self.differences.get(source.partition("/")[0], {}))

    def settle(self, report: weights.Report) -> Mapping[str, Any]:
        """Computes as the source that was loaded does; the fields of the config that this changes."""
        changed = self.differing(report.source)
        if told := report.options.get("backbone_options"):
            fields = {field for source in self.rules for field in self.differing(source)}
            changed = {field: told[field] for field in fields & told.keys()}
        for field, value in changed.items():
            for module in self.modules():
                if hasattr(module, field):
                    setattr(module, field, value)
            report.adapted[field] = f"{value}, as {report.origin} has it"
        self.config = replace(self.config, **changed)
        return changed

    def run(self, block: nn.Module, *x: Any) -> Any:
        """`block(*x)`, recomputed in the backward pass when `checkpointing` is set."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return block(*x)
        # The second pass must not move batch norm's running statistics once more.
        return checkpoint(
            block, *x, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _statistics_frozen(block))
        )

    def tables(self) -> dict[str, weights.Rules]:
        """The family's rule tables for this config."""
        return {name: table(self.config) if callable(table) else table for name, table in self.rules.items()}

    def read(self, where: str | Path, source: str | None) -> tuple[dict[str, Tensor], weights.Report]:
        """A checkpoint's tensors under this backbone's own names, those of its classifier under `head.`."""
        card = weights.known(self.published, where)
        if card is not None:
            if not card.commercial:
                warnings.warn(f"{where} is licensed {card.licence}: not for commercial use.", stacklevel=3)
            if source not in (None, card.source):
                raise VertebraError(f"{where} is of {card.source}, not of {source}; leave source out.")
            where, source = card.hub, card.source
        try:
            state, metadata, path = weights.read(where)
        except VertebraError as error:
            raise VertebraError(f"{error}{nearest(str(where), self.published)}") from error
        if "vertebra" in metadata:
            own = {k.removeprefix("backbone."): tensor for k, tensor in state.items()}
            return own, weights.Report.own(path, metadata, source)
        converted, dropped, chosen = self.convert(state, source)
        return converted, weights.Report(str(path), chosen, left_out=dropped)

    def convert(self, state: Mapping[str, Tensor], source: str | None) -> tuple[dict[str, Tensor], dict[str, str], str]:
        """Foreign tensors under this backbone's own names, those dropped and why, and the name of the table used."""
        tables = self.tables()
        chosen = weights.rules.choose(state, tables, source, self.state_dict())
        return *weights.convert(state, tables[chosen]), chosen

    def load(self, where: str | Path, *, source: str | None = None, partial: bool = False) -> weights.Report:
        """Fills the backbone from a checkpoint of a whole classifier or of this backbone.

        Args:
            where: a published checkpoint by name (a key of the family's WEIGHTS), a file, a folder or a Hub name;
                see `vertebra.weights.read`.
            source: whose names the tensors bear (a key of the family's RULES, or `vertebra`); found out if None.
            partial: whether what does not fit is listed instead of being an error.

        Returns:
            The report of what was used, left out and newly made.

        Raises:
            VertebraError: if the file cannot be read, or does not fit and `partial` is False.
        """
        state, report = self.read(where, source)
        unwanted = {"head.": "belongs to the classifier, not to the backbone"}
        if not self.config.embedding:
            unwanted |= dict.fromkeys(self.embedding_only, "only `embed` needs it: pass embedding=True to have it")
        weights.load(self, state, report, adapt=self.adapt, unwanted=unwanted, partial=partial)
        self.settle(report)
        return report


@contextlib.contextmanager
def _statistics_frozen(block: nn.Module) -> Iterator[None]:
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count
