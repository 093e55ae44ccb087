"""What is known of a published checkpoint before it is fetched."""

from dataclasses import dataclass

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
