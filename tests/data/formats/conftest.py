"""What the tests of annotation tools' formats share: small images, one sample, and its masks."""

import pytest
from PIL import Image

from vertebra.data.reading import read


@pytest.fixture
def save_image(tmp_path):
    """Saves a black image of (width, height), by its path in `tmp_path`."""

    def save(name, size=(20, 10)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)
        return path

    return save


@pytest.fixture
def read_one():
    """Reads a dataset of one image: the catalogue and the sample."""

    def read_dataset(path, *fields):
        catalogue = read(path, fields=fields or None)
        (sample,) = [sample for samples in catalogue.splits.values() for sample in samples]
        return catalogue, sample

    return read_dataset


@pytest.fixture
def mask_of():
    """A mask of a sample as rows of `.` and `#`."""

    def rows(sample, index):
        target = sample.load_target(sample.size)
        return ["".join(".#"[int(value)] for value in row) for row in target.masks[index]]

    return rows
