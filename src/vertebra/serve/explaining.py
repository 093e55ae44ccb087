"""Explanations of a served model: Grad-CAM of one answer, by the model as it was trained."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

from PIL import Image
from torch import Tensor

from vertebra.backbones import Backbone
from vertebra.errors import VertebraError
from vertebra.export import is_exported
from vertebra.predict import Predictor

log = logging.getLogger("vertebra.serve")


class ModelExplainer:
    """Explains the answers of one model, in one thread at a time."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @property
    def possible(self) -> bool:
        """Whether the model has gradients, and feature maps for Grad-CAM."""
        given = self.predictor
        return not is_exported(given.checkpoint) and isinstance(getattr(given.task, "backbone", None), Backbone)

    @cached_property
    def _explainer(self) -> Any:
        from vertebra.predict.explain import Explainer

        # The served model has no gradients: its weights are folded and laid out for prediction, or in another engine.
        try:
            return Explainer(self.predictor.checkpoint, device=str(self.predictor.device))
        except VertebraError as error:  # which has the path
            log.warning("a model cannot be loaded to be explained: %s", error)
            raise VertebraError("the model cannot be loaded to be explained.") from None

    def explain(self, image: Tensor, label: str | None, point: tuple[int, int] | None) -> Image.Image:
        """The image [C, H, W] uint8 under the colours of the map: RGB.

        Args:
            label: class of the answer; the top-scoring answer's if None.
            point: x, y of a pixel of the object or of the region; any if None.

        Raises:
            VertebraError: if the model has no gradients, no such class or no such answer.
        """
        if not self.possible:
            raise VertebraError(
                "this model cannot be explained: it was exported without gradients, or has no backbone."
            )
        explained = self._explainer(image, classes=() if label is None else (label,), point=point)
        if not explained:
            raise VertebraError("the model predicts nothing of that class at that place: there is nothing to explain.")
        return explained[0].plot()
