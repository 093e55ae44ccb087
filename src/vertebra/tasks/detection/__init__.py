"""Detection: a box and a class for every object."""

from __future__ import annotations

from collections.abc import Sequence

from vertebra.backbones import Backbone
from vertebra.structures import Preprocess
from vertebra.tasks.detection.config import Config
from vertebra.tasks.detection.faster_rcnn import FasterRCNN
from vertebra.tasks.detection.retinanet import RetinaNet
from vertebra.tasks.region import RegionTask

__all__ = ["TASK", "Config", "FasterRCNN", "RetinaNet"]


def TASK(
    config: Config, classes: Sequence[str], preprocess: Preprocess, backbone: Backbone | None = None
) -> RegionTask:
    """The detector that `config.method` names."""
    method = RetinaNet if config.method == "retinanet" else FasterRCNN
    return method(config, classes, preprocess, backbone)
