"""COCO's average precision of instances, and the score threshold to apply: a thin face over faster-coco-eval.

`instances` holds what is compared, `match` assigns detections to objects, `thresholds` sweeps over the scores,
`evaluator` runs faster-coco-eval, and `metrics` puts them together.
"""

from vertebra.metrics.coco.evaluator import IOU_TYPES
from vertebra.metrics.coco.metrics import CocoMetrics

__all__ = ["IOU_TYPES", "CocoMetrics"]
