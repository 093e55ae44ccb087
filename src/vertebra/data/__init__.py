"""Pictures and what is true of them: readers, the built-in shapes, augmentation, batches."""

from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.readers import open_data

__all__ = ["Catalogue", "Sample", "open_data"]
