"""Reading other people's checkpoints: where they lie, what their tensors are called, what is known of them."""

from vertebra.weights.card import Weights
from vertebra.weights.fetch import read
from vertebra.weights.rules import Drop, Fix, Rename, Report, Rules, convert, load

__all__ = ["Drop", "Fix", "Rename", "Report", "Rules", "Weights", "convert", "load", "read"]
