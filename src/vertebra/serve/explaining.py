"""Explanations of a served model: of one answer by one technique, by the model as it was trained."""

from __future__ import annotations

import logging
from functools import cached_property
from threading import Event

from PIL import Image
from torch import Tensor

from vertebra.engine import checkpoint
from vertebra.errors import VertebraError, one_of
from vertebra.export import is_exported
from vertebra.predict import Predictor
from vertebra.tasks import Task

log = logging.getLogger("vertebra.serve")


class ModelExplainer:
    """Explains the answers of one model, in one thread at a time."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @cached_property
    def titles(self) -> dict[str, str]:
        """The techniques that can explain the model, by name the title; none of an exported file, which has no
        gradients."""
        from vertebra.predict.explain import techniques
        from vertebra.predict.explain.explainer import DEFAULT

        if is_exported(self.predictor.checkpoint):
            return {}
        task = self.predictor.task
        applying = {name: str(module.TITLE) for name, module in techniques().items() if module.applies(task)}
        return {name: applying[name] for name in sorted(applying, key=lambda name: name not in DEFAULT)}

    @cached_property
    def _task(self) -> Task:
        # The served model has no gradients: its weights are folded and laid out for prediction, or in another engine.
        try:
            given = self.predictor
            return checkpoint.load(given.checkpoint, device=str(given.device), model=given.adjusted)[0]
        except VertebraError as error:  # which has the path
            log.warning("a model cannot be loaded to be explained: %s", error)
            raise VertebraError("the model cannot be loaded to be explained.") from None

    def explain(
        self,
        image: Tensor,
        label: str | None,
        point: tuple[int, int] | None,
        technique: str | None = None,
        abandoned: Event | None = None,
    ) -> Image.Image:
        """The image [C, H, W] uint8 under the colours of the map: RGB.

        Args:
            label: class of the answer; the top-scoring answer's if None.
            point: x, y of a pixel of the object or of the region; any if None.
            technique: a name of `titles`; the first if None.
            abandoned: is set when the explanation is no longer waited for; it ends before its next forward pass.

        Raises:
            VertebraError: if the model has no gradients, no such class or no such answer, the technique does not apply
                to it, or the explanation is abandoned.
        """
        from vertebra.predict.explain import Explainer

        if not self.titles:
            raise VertebraError(
                "this model cannot be explained: it was exported without gradients, or has no backbone."
            )
        technique = technique or next(iter(self.titles))
        one_of("technique", technique, self.titles)

        def check(*_: object) -> None:
            if abandoned is not None and abandoned.is_set():
                raise VertebraError("this explanation is no longer waited for.")

        with self._task.register_forward_pre_hook(check):
            labels = () if label is None else (label,)
            explained = Explainer(self._task, (technique,))(image, classes=labels, point=point)
        if not explained:
            raise VertebraError("the model predicts nothing of that class at that place: there is nothing to explain.")
        return explained[0].plot()
