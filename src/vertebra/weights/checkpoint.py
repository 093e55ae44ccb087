"""A checkpoint, opened and read once: its tensors, and where they are from."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vertebra.errors import VertebraError, nearest
from vertebra.structures import Preprocess
from vertebra.weights import description, torchvision
from vertebra.weights.card import Weights, by_hub, known
from vertebra.weights.fetch import read
from vertebra.weights.locate import UnknownName


@dataclass
class Checkpoint:
    """What `open_checkpoint` has read."""

    path: Path
    """The file."""
    state: dict[str, Tensor] = field(repr=False)  # millions of numbers
    """Tensors by their names in the file."""
    about: dict[str, Any] | None = None
    """Vertebra's own description of the model (task, method, model, classes, preprocess, ...), if it wrote the file."""
    card: Weights | None = None
    """What is known of it, if it is a published checkpoint."""

    @property
    def preprocess(self) -> Preprocess | None:
        """The preprocessing that it was trained with, as far as it is known."""
        if self.about is not None:
            return Preprocess.from_dict(self.about["preprocess"])
        return self.card.preprocess if self.card else None

    def source(self, given: str | None) -> str | None:
        """Whose names the tensors bear: `given` by the user, or the card's; None where that is not known.

        Raises:
            VertebraError: if the user names another source than the file's.
        """
        if self.about is not None:
            if given not in (None, "vertebra"):
                raise VertebraError(f"{self.path} was written by Vertebra, not by {given}; leave source out.")
            return "vertebra"
        if self.card is not None:
            if given not in (None, self.card.source):
                raise VertebraError(f"{self.path} is from {self.card.source}, not from {given}; leave source out.")
            return self.card.source
        return given


def open_checkpoint(
    where: str | Path | Checkpoint, published: Mapping[str, Weights] | None = None, source: str | None = None
) -> Checkpoint:
    """Reads a checkpoint.

    Args:
        where: a published checkpoint by name (a key of `published`), or what `vertebra.weights.read` takes; a
            Checkpoint is returned as it is.
        published: known checkpoints by name.
        source: the library that the user names; one that a published checkpoint is not from is an error before
            anything is downloaded.

    Raises:
        VertebraError: if it cannot be read, is from another library than `source`, or its description is of a form that
            this version does not know.
    """
    if isinstance(where, Checkpoint):
        return where
    card = known(published or {}, where)
    if card is not None and source not in (None, card.source):
        raise VertebraError(f"{where} is from {card.source}, not from {source}; leave source out.")
    if card is not None and not card.commercial:
        warnings.warn(f"{where} is licensed {card.licence}: not for commercial use.", stacklevel=3)
    try:
        state, metadata, path = read(card or where)
    except UnknownName as error:
        published, model = published or {}, str(where).partition(".")[0]
        theirs = bool(torchvision.url(str(where))) or torchvision.is_model(model)
        if published and theirs and not any(name.startswith(f"{model}.") for name in published):
            raise VertebraError(f"{where} is of a model of torchvision that no method here reads.") from error
        names = [*published, *by_hub(published)]
        raise VertebraError(f"{error}{nearest(str(where), names)}") from error
    about = description.parse(metadata["vertebra"], path) if "vertebra" in metadata else None
    return Checkpoint(path, state, about, card)
