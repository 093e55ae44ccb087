"""What detectors and segmenters share: a backbone with a chosen norm, and checkpoints of which a part may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vertebra import backbones, weights
from vertebra.backbones import Backbone
from vertebra.errors import VertebraError, in_range
from vertebra.nn.norm import has_norms, replace_norm
from vertebra.options import training_only
from vertebra.tasks.base import BackboneTask


@dataclass(frozen=True)
class TrunkConfig:
    """Options of the backbone."""

    backbone: str = "resnet50"
    """Public name of the backbone; `vertebra models` lists them."""
    backbone_options: dict[str, Any] = field(default_factory=dict)
    """Fields of the backbone's Config to replace."""
    drop_path: float = training_only(0.0)
    """Stochastic depth rate of the backbone's last block; it rises linearly from 0 at the first."""
    norm: Literal["auto", "batch", "frozen", "sync", "group"] = "auto"
    """Norm that replaces the backbone's batch norm: batch norm itself, frozen, synchronised over processes, or group
    norm. `auto` freezes it when training starts from a checkpoint."""
    norm_eps: float | None = None
    """Epsilon of frozen norms; the backbone's if not given. torchvision's first detectors use 0."""

    def __post_init__(self) -> None:
        in_range("drop_path", self.drop_path, 0, 1)
        in_range("norm_eps", self.norm_eps, 0, 1)


class TrunkTask(BackboneTask):
    """A backbone and the parts on top of it, some of which another model's checkpoint may lack."""

    unwanted: Mapping[str, str] = {}
    """Prefixes of tensors that other models have and this one does not use, and why."""

    def make_backbone(self, backbone: Backbone | None, **options: Any) -> Backbone:
        """The backbone of the config with further `options`, or `backbone` itself, with the config's norm."""
        config = self.config
        common: dict[str, Any] = {
            "channels": self.preprocess.channels,
            "drop_path": config.drop_path,
            "level_norms": True,
            **options,
        }
        if self.preprocess.resize in ("fit", "squash", "box"):
            common["image_size"] = self.preprocess.size
        elif backbone is None and not backbones.takes_any_size(config.backbone):
            raise VertebraError(
                f"{config.backbone} takes one input size, into which images have to be fitted: resize is "
                f"{self.preprocess.resize!r} and must be 'fit'."
            )
        made = backbone or backbones.create(config.backbone, **{**common, **config.backbone_options})
        if backbone is None and config.norm in ("frozen", "sync", "group") and self.needs_norms and not has_norms(made):
            raise VertebraError(
                f"norm is {config.norm!r}, but {config.backbone} has no batch norm that it could replace: leave it out."
            )
        return replace_norm(made, self.backbone_norm, config.norm_eps)  # type: ignore[return-value]

    needs_norms: ClassVar[bool] = True
    """Whether the option `norm` needs a backbone with batch norms."""

    @property
    def backbone_norm(self) -> str:
        """The norm that the backbone is built with."""
        return "batch" if self.config.norm == "auto" else str(self.config.norm)

    @property
    def fresh(self) -> tuple[str, ...]:
        """Prefixes of the parts that may be newly initialised when the backbone alone is loaded."""
        return (*(f"{name}." for name, _ in self.named_children() if name != "backbone"), "head.")

    def fill(self, state: Mapping[str, Tensor], report: weights.Report, *, partial: bool = False) -> weights.Report:
        expected = self.state_dict()
        # Frozen norms do not count batches.
        tensors = self.rearranged(state)
        used = {k: t for k, t in tensors.items() if k in expected or not k.endswith("num_batches_tracked")}

        return weights.load(
            self, used, report, adapt=self.adapt, unwanted=self.unwanted, partial=partial, fresh=self.fresh
        )

    def adapt(self, name: str, tensor: Tensor, shape: torch.Size) -> tuple[Tensor, str] | None:
        """As `Backbone.adapt`, by the names of this model."""
        return self.backbone.adapt(name.removeprefix("backbone."), tensor, shape)

    def place(self, backbone_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = (name if name.startswith("head.") else f"backbone.{name}" for name in backbone_state)
        return self.rearranged(dict(zip(names, backbone_state.values(), strict=True)))

    def rearranged(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of another detector of ours, with the backbone's last stage where this one has it: C4 detectors keep
        it apart, as `stage`."""
        expected = self.state_dict().keys()
        here = f"backbone.stages.{len(getattr(self.backbone, 'stages', ())) - 1}."
        stage = [name for name in state if name.startswith("stage.") and not name.endswith("num_batches_tracked")]
        if not all(here + name.removeprefix("stage.") in expected for name in stage):
            return dict(state)
        return {
            here + name.removeprefix("stage.") if name.startswith("stage.") else name: tensor
            for name, tensor in state.items()
        }

    def check_fits(self, state: Mapping[str, Tensor]) -> None:
        """Checks that a file has no part that this model, built with the file's options, lacks.

        Args:
            state: the file's tensors under this model's names.

        Raises:
            VertebraError: naming the part: the file's network computes with it, so predictions without it are wrong.
        """
        expected, unwanted = self.state_dict(), tuple(self.unwanted)
        problems = []
        for name, tensor in state.items():
            if name not in expected:
                if not name.startswith(unwanted) and not name.endswith("num_batches_tracked"):
                    problems.append(f"{name} has no place in it")
            elif tensor.shape != expected[name].shape and not name.startswith("backbone."):
                problems.append(f"{name} is {list(tensor.shape)}, not {list(expected[name].shape)}")
        if problems:
            raise VertebraError(
                f"this file is of a model other than {self.method} over {self.config.backbone}: {problems[0]}"
                + (f", and {len(problems) - 1} more." if len(problems) > 1 else ".")
            )
