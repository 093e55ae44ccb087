"""Pictures put into another folder, byte for byte and each under a name of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image
from torch import Tensor


class Copies:
    """Fills one folder; of two files with one name, the second gets a number.

    Args:
        folder: where they go; made with the first.
        stems: whether names must differ without their endings too, because other files are named after them.
    """

    def __init__(self, folder: Path, *, stems: bool = False) -> None:
        self.folder = folder
        self.stems = stems
        self.taken: set[str] = set()
        self.count = 0

    def add(self, picture: Path | Tensor) -> Path:
        """Copies a file, or writes pixels [C, H, W] uint8 as PNG; returns where."""
        self.count += 1
        wanted = Path(picture.name) if isinstance(picture, Path) else Path(f"{self.count:06}.png")
        name, number = wanted, 1
        while (name.stem if self.stems else name.name).lower() in self.taken:
            number += 1
            name = Path(f"{wanted.stem}-{number}{wanted.suffix}")
        self.taken.add((name.stem if self.stems else name.name).lower())
        self.folder.mkdir(parents=True, exist_ok=True)
        if isinstance(picture, Path):
            shutil.copyfile(picture, self.folder / name)
        else:
            array = picture.permute(1, 2, 0).squeeze(-1).numpy()
            Image.fromarray(array).save(self.folder / name)
        return self.folder / name
