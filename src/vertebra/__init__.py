"""Vertebra: every vision backbone under every recognition task.

`create` makes a model, `backbone` a bare backbone, `load` reads a trained model; nothing heavy is imported
before one of them is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vertebra.backbones import Backbone
    from vertebra.predict import Predictor
    from vertebra.tasks import Task

__version__ = "0.1.0.dev0"
__all__ = ["backbone", "create", "load"]


def create(
    task: str,
    *,
    backbone: str = "resnet50",
    classes: int | Sequence[str] | None = None,
    weights: str | Path | None = None,
    source: str | None = None,
    **options: Any,
) -> Task:
    """A model for a task, ready to train or to fill with weights.

    Args:
        task: `classification`, `detection` (boxes), `instance` (masks) or `keypoints`.
        backbone: a public backbone name, or timm's or torchvision's name for the same model.
        classes: their number, or their names in order; as many as another library's detector has that is given as
            `weights`, else 1000.
        weights: a published checkpoint by name (`resnet50.a1_in1k`), a file, a folder, or a Hub name. What does
            not fit, such as a head for other classes, is left out and listed on `model.report`. A detector of
            torchvision, Detectron2 or MMDetection says itself which options it is built with.
        source: whose names the weights bear, and whose way of computing they want, such as `mmdet/caffe`; found out if
            None.
        options: fields of the task's Config (`drop_path`, `method`, ...) and `preprocess`.

    Returns:
        A `torch.nn.Module`; its `predict` takes paths, PIL images, arrays and tensors.

    Raises:
        VertebraError: if a name is unknown or the weights cannot be read.
    """
    from vertebra import tasks

    return tasks.create(task, backbone=backbone, classes=classes, weights=weights, source=source, **options)


def backbone(name: str, *, weights: str | Path | None = None, **overrides: Any) -> Backbone:
    """A bare backbone: pictures [B, C, H, W] to a list of feature maps, finest first, described by its `levels`.

    Args:
        name: a public backbone name, or timm's or torchvision's name for the same model.
        weights: as in `create`, but strict.
        overrides: `channels` (of the input), `drop_path`, `embedding` (whether layers that only `embed` needs are
            built) and the architecture's own fields.

    Raises:
        VertebraError: if a name is unknown or the weights do not fit.
    """
    from vertebra import backbones

    return backbones.create(name, weights=weights, **overrides)


def load(path: str | Path, *, device: str | None = None, precision: str = "32-true") -> Predictor:
    """A trained model from the one file that `vertebra train` wrote, made fast for prediction.

    Args:
        path: a `best.safetensors`, or the run folder that holds it.
        device: where to run, such as `cuda`; the fastest there is if None.
        precision: of convolutions and matrix products: `32-true`, `bf16-mixed` (twice as fast on CPUs and GPUs that
            have such instructions, and answers that differ in the third digit) or `16-mixed` (GPUs).

    Raises:
        VertebraError: if the file is damaged or was not written by Vertebra, or there is no such precision.
    """
    from vertebra.predict import Predictor

    return Predictor(path, device=device, precision=precision)
