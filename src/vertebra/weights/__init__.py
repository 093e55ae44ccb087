"""Reading other people's checkpoints: where they lie, what their tensors are called, what is known of them."""

from vertebra.weights.card import Weights, known
from vertebra.weights.fetch import description, read
from vertebra.weights.rules import Drop, Fix, Join, Rename, Report, Rules, adapt_channels, convert, load

__all__ = [
    "Drop",
    "Fix",
    "Join",
    "Rename",
    "Report",
    "Rules",
    "Weights",
    "adapt_channels",
    "convert",
    "description",
    "known",
    "load",
    "read",
]
