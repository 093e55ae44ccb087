"""What the kinds share whose inputs are texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from vertebra.data.augment import Transform
from vertebra.data.catalogue import Sample
from vertebra.data.geometry import Example
from vertebra.data.inputs import Inputs
from vertebra.data.sentences import TextInputs, TextSample
from vertebra.errors import escaped
from vertebra.kinds.base import Kind
from vertebra.structures import KeypointSchema, Prediction, Preprocess, Target

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TextKind(Kind):
    """A kind whose inputs are texts; its tasks are `TextTask`s."""

    reads_images = False
    tta_scales = ()
    eval_batch_size = 64
    text: ClassVar[str]
    """What a text is called, in the singular, such as `sentence`."""
    lines_file: ClassVar[str]
    """File of the predictions, with a line for each text."""
    page: ClassVar[str]
    """Title of the page that shows where the model looks, whose file is named after it."""

    def inputs(self, preprocess: Preprocess) -> Inputs:
        return TextInputs()

    def transform(self, augment: Any, preprocess: Preprocess, keypoints: KeypointSchema | None = None) -> Transform:
        return _unchanged

    def line(self, prediction: Prediction, classes: Sequence[str]) -> str:
        """The prediction as a line of `lines_file`."""
        raise NotImplementedError

    def figures(self, prediction: Prediction) -> dict[str, Figure]:
        """Images of where the model looks, by the ending of their names; none if the page shows everything."""
        return {}

    def html(self, source: str, prediction: Prediction, classes: Sequence[str]) -> str:
        """The prediction on the page, with the weight of each word or token under the pointer."""
        raise NotImplementedError

    # -- `vertebra data`

    def content(self, sample: Sample) -> tuple[bytes, tuple[int, int] | None]:
        """The text."""
        assert isinstance(sample, TextSample)
        return sample.source.encode(), None

    def inspect_sample(self, sample: Sample, size: Any) -> tuple[Target, list[str]]:
        return sample.target, []


def listed(values: dict[str, str]) -> str:
    """A table of texts by their names, as HTML."""
    rows = "".join(f"<tr><td>{name}</td><td>{escape(escaped(text))}</td></tr>" for name, text in values.items())
    return f'<table class="sentences">{rows}</table>'


def _unchanged(example: Example, another: Callable[[], Example]) -> tuple[Tensor, Target]:
    return example.image, example.target
