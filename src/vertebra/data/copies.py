"""Copies of image files in another folder, byte for byte and each under a name of its own."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from PIL import Image
from torch import Tensor

from vertebra.images import StoredImage


class Copies:
    """Fills one folder; of two files with one name, the second gets a number. Names lose what is no text.

    Args:
        folder: where they go; created with the first.
        stems: whether names must differ without their suffixes too, because other files are named after them.
    """

    def __init__(self, folder: Path, *, stems: bool = False) -> None:
        self.folder = folder
        self.stems = stems
        self.taken: set[str] = set()
        self.count = 0

    def add(self, image: Path | StoredImage | Tensor) -> Path:
        """Copies a file, or writes pixels [C, H, W] uint8 as PNG; returns the new path."""
        self.count += 1
        name_of = f"{self.count:06}.png" if isinstance(image, Tensor) else os.path.basename(image.name)
        preferred = Path(re.sub(r"[\x00-\x1f\x7f]", "_", os.fsencode(name_of).decode("utf-8", "replace")))
        name, number = preferred, 1
        while (name.stem if self.stems else name.name).lower() in self.taken:
            number += 1
            name = Path(f"{preferred.stem}-{number}{preferred.suffix}")
        self.taken.add((name.stem if self.stems else name.name).lower())
        self.folder.mkdir(parents=True, exist_ok=True)
        if isinstance(image, Path):
            shutil.copyfile(image, self.folder / name)
        elif isinstance(image, StoredImage):
            (self.folder / name).write_bytes(image.read())
        else:
            array = image.permute(1, 2, 0).squeeze(-1).numpy()
            Image.fromarray(array).save(self.folder / name)
        return self.folder / name
