"""Options of detection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vertebra.tasks.two_stage import TwoStageConfig


@dataclass(frozen=True)
class Config(TwoStageConfig):
    """The detector, and the loss it is trained with. Where nothing else is said, defaults are those of the papers."""

    method: Literal["faster_rcnn", "faster_rcnn_c4", "cascade_rcnn", "retinanet"] = "faster_rcnn"
    """`faster_rcnn` proposes regions over a pyramid, `faster_rcnn_c4` over one map; `cascade_rcnn` has three box heads
    in a row; `retinanet` answers for every anchor at once."""
    extra_levels: Literal["backbone", "pyramid"] = "backbone"
    """What RetinaNet's coarsest levels are convolved from: the backbone's last map or, as in torchvision's first
    checkpoints and over backbones of one scale, the pyramid's."""
    extra_relu: bool = True
    """Whether a ReLU stands between RetinaNet's two coarsest levels; MMDetection has none."""
    clip_late: bool = False
    """Whether RetinaNet cuts boxes off at the border only after non-maximum suppression, as Detectron2 does."""
    loss_per_picture: bool = False
    """Whether RetinaNet's loss is divided by each picture's own number of objects' anchors, as torchvision's is."""
