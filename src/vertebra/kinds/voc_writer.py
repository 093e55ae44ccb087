"""Pascal VOC's XML, with the images, a dataset that annotation tools open; of label maps its indexed PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vertebra.data.formats import voc
from vertebra.errors import VertebraError, shown
from vertebra.files import replacing
from vertebra.kinds.writers import WriterOptions, check_text, save_original
from vertebra.structures import Prediction, Target
from vertebra.viz import maps

CONTENTS = frozenset({"objects", "map"})


class VocWriter:
    """Annotations/NAME.xml and JPEGImages/NAME.* for each image, NAME being that of its drawing; boxes only."""

    files: tuple[str, ...] = ("Annotations/", "JPEGImages/")

    def __init__(self, folder: Path, options: WriterOptions) -> None:
        check_text(options.classes)
        self.folder, self.options = folder, options

    def __enter__(self) -> VocWriter:
        return self

    def add(self, prediction: Prediction, number: int, drawn: str) -> None:
        name = save_original(prediction, drawn, self.folder / "JPEGImages", self.options)
        target = Target(boxes=prediction.boxes, labels=prediction.labels, size=prediction.size)
        with replacing(self.folder / "Annotations" / f"{Path(name).stem}.xml") as temporary:
            voc.document(target, name, self.options.classes).write(temporary, encoding="utf-8")

    def __exit__(self, *error: Any) -> None:
        pass


class VocMapsWriter:
    """SegmentationClass/NAME.png and JPEGImages/NAME.* for each image, and labelmap.txt with classes and colours."""

    files: tuple[str, ...] = ("SegmentationClass/", "JPEGImages/", "labelmap.txt")

    def __init__(self, folder: Path, options: WriterOptions) -> None:
        check_text(options.classes)
        if wrong := next((name for name in options.classes if ":" in name or name.startswith("#")), None):
            raise VertebraError(
                f"class {shown(wrong)} cannot stand in labelmap.txt, where a colon ends a name and # begins a remark: "
                "choose another --format."
            )
        self.folder, self.options = folder, options

    def __enter__(self) -> VocMapsWriter:
        colours = maps.palette(len(self.options.classes)).tolist()
        lines = [
            f"{name}:{red},{green},{blue}::"
            for name, (red, green, blue) in zip(self.options.classes, colours, strict=False)
        ]
        with replacing(self.folder / "labelmap.txt") as temporary:
            temporary.write_text("\n".join(["# label:color_rgb:parts:actions", *lines, ""]), encoding="utf-8")
        return self

    def add(self, prediction: Prediction, number: int, drawn: str) -> None:
        assert self.options.label_map is not None
        name = save_original(prediction, drawn, self.folder / "JPEGImages", self.options)
        image = Image.fromarray(np.ascontiguousarray(self.options.label_map(prediction).numpy()))
        image.putpalette(maps.palette(len(self.options.classes)).tobytes())
        with replacing(self.folder / "SegmentationClass" / f"{Path(name).stem}.png") as temporary:
            image.save(temporary, "PNG")

    def __exit__(self, *error: Any) -> None:
        pass


def writer(folder: Path, options: WriterOptions) -> VocWriter | VocMapsWriter:
    return VocMapsWriter(folder, options) if options.label_map else VocWriter(folder, options)
