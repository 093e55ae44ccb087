"""Pictures and what is true of them: readers, the built-in shapes, augmentation, batches."""

from vertebra.data.readers import Catalogue, Sample, open_data

__all__ = ["Catalogue", "Sample", "open_data"]
