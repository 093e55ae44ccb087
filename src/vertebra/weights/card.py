"""What is known of a published checkpoint before it is fetched."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vertebra.structures import Preprocess


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One published checkpoint of one variant."""

    hub: str
    """Hugging Face Hub repository, `owner/name`."""
    source: str
    """Whose names its tensors bear: a key of the family's RULES."""
    licence: str
    """SPDX identifier in lower case."""
    top1: float | None
    """Published ImageNet-1k accuracy in percent at `preprocess`, None where none is published."""
    reference: str
    """Where `top1` was published."""
    preprocess: Preprocess
    """The evaluation preprocessing that `top1` was measured with."""
    classes: int = 1000
    """Outputs of its classifier."""

    @property
    def commercial(self) -> bool:
        """False for licences that forbid commercial use."""
        return "-nc" not in self.licence


def known(published: Mapping[str, Weights], where: str | Path) -> Weights | None:
    """The card of a checkpoint by its name here, or by that of its Hub repository."""
    name = str(where).removeprefix("hf-hub:")
    return published.get(name) or next((card for card in published.values() if card.hub == name), None)


HALF = (0.5, 0.5, 0.5)
"""Mean and deviation of the models that see images on a scale from -1 to 1."""


def published(
    repository: str,
    licence: str,
    top1: float | None,
    size: int,
    crop: float,
    interpolation: str,
    resize: str = "crop",
    *,
    mean: tuple[float, ...] = Preprocess.mean,
    std: tuple[float, ...] = Preprocess.std,
) -> Weights:
    """A row of a family's WEIGHTS: a checkpoint in a timm repository on the Hub, with timm's own test of it."""
    preprocess = Preprocess((size, size), crop, resize, interpolation, mean=mean, std=std)
    return Weights(
        hub=f"timm/{repository}",
        source="timm",
        licence=licence,
        top1=top1,
        reference="timm results-imagenet.csv",
        preprocess=preprocess,
    )
