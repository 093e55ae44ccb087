"""A number per image: the count of its objects."""

from vertebra.data.augment.objects import ObjectsAugment, ObjectsTransform
from vertebra.kinds import Kind


class Number(Kind):
    target_field = "boxes"
    description = "counts"
    augment = ObjectsAugment

    def transform(self, augment, preprocess, keypoints=None):
        return ObjectsTransform(augment, preprocess, keypoints)

    def caption(self, prediction, classes, top=3):
        return [(f"count {value:.1f}", 0.0) for value in prediction.values.tolist()]


KIND = Number()
