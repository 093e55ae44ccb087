"""Keypoints of objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vertebra.data.catalogue import Catalogue, check_keypoints
from vertebra.kinds.objects import Objects
from vertebra.tasks import Task


class Keypoints(Objects):
    """A class, a score, a box and keypoints per object; all objects of a dataset have the same keypoints."""

    target_field = "keypoints"
    description = "keypoints"
    priority = 4

    def check_compatible(self, catalogue: Catalogue, task: Task) -> None:
        if task.keypoints is not None:
            check_keypoints(catalogue, task.keypoints)

    def model_options(self, catalogue: Catalogue, balance: bool = False) -> dict[str, Any]:
        """The dataset's keypoint schema."""
        return {"keypoints": catalogue.keypoints} if catalogue.keypoints is not None else {}

    def metric_options(self, about: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
        """The score threshold of the checkpoint, and the sigmas of the dataset."""
        options = super().metric_options(about, catalogue)
        if catalogue.keypoints is not None and catalogue.keypoints.sigmas:
            options["sigmas"] = catalogue.keypoints.sigmas
        return options


KIND = Keypoints()
