"""Images and their ground truth: formats, the built-in shapes, augmentation, batches."""

from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.reading import open_data

__all__ = ["Catalogue", "Sample", "open_data"]
