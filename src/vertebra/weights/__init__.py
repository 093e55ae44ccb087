"""Reading checkpoints of other libraries: where they are, how their tensors are named, what is known of them."""

from vertebra.weights.card import Weights, known
from vertebra.weights.checkpoint import Checkpoint, open_checkpoint
from vertebra.weights.fetch import read
from vertebra.weights.rules import Drop, Fix, Join, Rename, Report, Rules, adapt_channels, convert, load

__all__ = [
    "Checkpoint",
    "Drop",
    "Fix",
    "Join",
    "Rename",
    "Report",
    "Rules",
    "Weights",
    "adapt_channels",
    "convert",
    "known",
    "load",
    "open_checkpoint",
    "read",
]
