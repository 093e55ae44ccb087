"""Object-contextual representations."""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.errors import VertebraError
from vertebra.tasks.decoders import OCRConfig, OCRForm
from vertebra.tasks.segmenter import RECIPE, AuxOptions
from vertebra.tasks.segmenter_sources import OCR_SOURCES
from vertebra.tasks.semantic.labels import WithLabelOptions, WithLabels


@dataclass(frozen=True)
class Config(WithLabelOptions, OCRConfig):
    """The segmenter and its training loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aux.channels != AuxOptions.channels:
            raise VertebraError("aux.channels has no effect in ocr, whose object regions have the loss: leave it out.")


class OCR(WithLabels, OCRForm):
    """[B, C, H, W] -> logits of every pixel, from pixels that attend to object regions.

    Source: Segmentation Transformer: Object-Contextual Representations, arXiv:1909.11065.
    """


MODEL = OCR
SOURCES = OCR_SOURCES

__all__ = ["MODEL", "OCR", "RECIPE", "SOURCES", "Config"]
