"""How samples become the inputs of a network."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Protocol

from torch import Tensor

from vertebra.data.catalogue import Sample
from vertebra.data.geometry import Example, read_example
from vertebra.images import UnreadableImage, frame_of, pad_batch, prepare
from vertebra.structures import Frame, Preprocess


class Inputs(Protocol):
    """How samples become the inputs of a network."""

    def read(self, sample: Sample) -> Example:
        """The input of a sample before any augmentation, and its target; UnreadableImage if it cannot be read."""

    def prepare(self, example: Example) -> tuple[Tensor, Frame]:
        """The input of an example as evaluation needs it, without padding."""

    def stack(self, inputs: Sequence[Tensor]) -> Tensor:
        """A batch of inputs, padded to one size."""

    def groups(self, samples: Sequence[Sample], *, training: bool) -> Sequence[Hashable] | None:
        """Which samples share batches, see `BatchSampler`; None where all may."""


class ImageInputs:
    """Images, of whose targets those `fields` are read that are needed."""

    def __init__(self, preprocess: Preprocess, fields: Collection[str]) -> None:
        self.preprocess, self.fields = preprocess, fields

    def read(self, sample: Sample) -> Example:
        return read_example(sample, self.preprocess.channels, self.fields)

    def prepare(self, example: Example) -> tuple[Tensor, Frame]:
        """[C, h, w] float32, normalised."""
        image = prepare(example.image, self.preprocess, example.region)
        return image, frame_of(example.size, self.preprocess, example.region)

    def stack(self, inputs: Sequence[Tensor]) -> Tensor:
        """[B, C, H, W] float32."""
        return pad_batch(list(inputs), self.preprocess)

    def groups(self, samples: Sequence[Sample], *, training: bool) -> list[Hashable] | None:
        """In training images of one orientation, in evaluation those of one size in the input.

        None where all inputs have one size anyway.
        """
        resize = self.preprocess.resize
        if resize not in ("shortest", "fit") or (training and resize == "fit"):
            return None
        sizes = [_size(sample) for sample in samples]
        if training:
            return [None if size is None else size[1] > size[0] for size in sizes]
        return [None if size is None else frame_of(size, self.preprocess).resized for size in sizes]


def _size(sample: Sample) -> tuple[int, int] | None:
    """From the image's header if the dataset does not give it."""
    try:
        return sample.size
    except UnreadableImage:  # reported when it is read
        return None
