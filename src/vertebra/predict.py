"""A checkpoint and pictures in, Predictions out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vertebra import pictures
from vertebra.engine import checkpoint
from vertebra.nn.fold import fold
from vertebra.structures import Prediction


class Predictor:
    """A trained model made fast: batch norm folded into the convolutions, channels-last memory, fused operators.

    Its answers equal the trained model's to rounding; it can no longer be trained. For that, make a model with
    `vertebra.create(..., weights=path)`.
    """

    def __init__(self, path: str | Path, *, device: str | None = None) -> None:
        """See `vertebra.load`."""
        self.task, self.about = checkpoint.load(path, device=device)
        fold(self.task)
        self.task.to(memory_format=torch.channels_last)
        self.device = next(self.task.parameters()).device

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the probabilities."""
        return self.task.classes

    def raw(self, images: Tensor) -> Any:
        """What the task's `forward` gives for a batch that is already normalised: [B, C, H, W] float32."""
        with torch.inference_mode():
            return self.task(self._place(images))

    def _place(self, images: Tensor) -> Tensor:
        return images.to(self.device).contiguous(memory_format=torch.channels_last)

    def predict(self, images: Any, *, batch_size: int = 16) -> list[Prediction]:
        """Predictions for one picture or a sequence of them, in their order.

        Args:
            images: path, PIL image, array [H, W, C] or tensor [C, H, W] (uint8, or floats in 0..1), a sequence of
                such, or a tensor [B, C, H, W].
            batch_size: pictures that go through the network together.

        Raises:
            VertebraError: if one cannot be read; `stream` passes such by.
        """
        many = pictures.listed(images)
        found: list[Prediction] = []
        for start in range(0, len(many), batch_size):
            batch, frames = pictures.prepare_all(many[start : start + batch_size], self.task.preprocess)
            with torch.inference_mode():
                found += self.task.infer(self._place(batch), frames)
        for picture, prediction in zip(many, found, strict=True):
            prediction.path = str(picture) if isinstance(picture, str | Path) else ""
        return found

    def stream(self, files: Iterable[Path]) -> Iterator[Prediction | pictures.BrokenPicture]:
        """For each file its Prediction, or the error that says why it cannot be read."""
        for file in files:
            try:
                yield self.predict(file)[0]
            except pictures.BrokenPicture as error:
                yield error

    def embed(self, images: Any, *, batch_size: int = 16) -> Tensor:
        """The backbone's pooled features of pictures, as `predict` takes them: -> [N, width] on the CPU."""
        many = pictures.listed(images)
        batches = (many[i : i + batch_size] for i in range(0, len(many), batch_size))
        with torch.inference_mode():
            found = [
                self.task.backbone.embed(self._place(pictures.prepare_all(batch, self.task.preprocess)[0])).cpu()
                for batch in batches
            ]
        return torch.cat(found)
