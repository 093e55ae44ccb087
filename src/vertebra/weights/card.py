"""What is known of a published checkpoint before it is fetched."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vertebra.structures import Preprocess


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One published checkpoint of one model. It has a `hub` or a `url`."""

    hub: str = ""
    """Hugging Face Hub repository, `owner/name`."""
    file: str = ""
    """File in that repository, if it is none of those that are looked for."""
    url: str = ""
    """Its file elsewhere."""
    checksum: str = ""
    """Algorithm and as many leading hexadecimal digits of that file's hash as its publisher gives, such as
    `sha256:dd69338a`; empty if none are given."""
    source: str
    """Whose names its tensors bear: a key of the family's RULES, or of the method's SOURCES."""
    licence: str
    """SPDX identifier in lower case."""
    backbone: str = ""
    """Public name of the backbone; empty in a family's table, whose keys begin with it."""
    top1: float | None = None
    """Published ImageNet-1k accuracy in percent at `preprocess`, None where none is published."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Published metrics in percent, by the names of the task's metrics, such as `box_ap`."""
    reference: str
    """Where the metrics were published."""
    preprocess: Preprocess | None = None
    """The evaluation preprocessing that they were measured with; None if it is the task's usual one."""
    classes: int = 1000
    """Outputs of its classifier."""
    class_names: tuple[str, ...] = ()
    """Of a detector: names of its classes, the background first if it is one of them."""
    size: int | None = None
    """Bytes of the file, where that is published."""
    task: str = ""
    """Of a whole model: its task ..."""
    method: str = ""
    """... and the method that reads it."""

    @property
    def commercial(self) -> bool:
        """False for licences that forbid commercial use."""
        return "-nc" not in self.licence and "noncommercial" not in self.licence


def known(published: Mapping[str, Weights], where: str | Path) -> Weights | None:
    """The card of a checkpoint by its name here, by that of its Hub repository, or by torchvision's name of it, such as
    `MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1`."""
    from vertebra.weights import torchvision  # which imports this module

    name = str(where).removeprefix("hf-hub:")
    if name in published:
        return published[name]
    url = torchvision.url(name)
    return by_hub(published).get(name) or next((card for card in published.values() if url and url == card.url), None)


def by_hub(published: Mapping[str, Weights]) -> dict[str, Weights]:
    """Cards by the names of their Hub repositories. A library's thousands of cards, which are no dict, are made when
    asked for, by these names too."""
    return {card.hub: card for card in published.values() if card.hub} if isinstance(published, dict) else {}


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
