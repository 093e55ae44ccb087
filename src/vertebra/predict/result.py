"""The prediction for one image, with what is needed to draw it and to write it down."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from vertebra import kinds
from vertebra.errors import VertebraError, escaped
from vertebra.files import replacing
from vertebra.images import read_image
from vertebra.kinds import Kind
from vertebra.predict.sources import ImageSource, VideoFrame
from vertebra.structures import Instance, KeypointSchema, Prediction
from vertebra.tasks import Task

HTML_SIDE = 480
"""Longer side in pixels of the image in a notebook."""
HTML_ROWS = 20
"""Rows of the table in a notebook."""


def _gone() -> None:
    return None


@dataclass(repr=False)
class ImageResult(Prediction):
    """A Prediction that knows its image: it can be drawn, saved and written in the forms of other tools.

    An image from a file is read again when it is needed, so that predictions of any number of images fit into memory;
    pixels that were passed in are kept.
    """

    kind: Kind = field(default_factory=Kind)
    """What is predicted."""
    schema: KeypointSchema | None = None
    """The keypoints of every object, if there are any."""
    source: ImageSource | VideoFrame | None = None
    """Where the image comes from."""
    channels: int = 3
    """Of the image as the model takes it."""
    pixels: Callable[[], Tensor | None] = _gone
    """A weak reference to the image, which saves reading it again while it is in memory."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "pixels": _gone}  # weak references cannot be copied

    @staticmethod
    def of(prediction: Prediction, task: Task, source: ImageSource | VideoFrame, image: Tensor) -> ImageResult:
        """A task's prediction for an image [C, H, W] and where that comes from."""
        return ImageResult(
            **vars(prediction)
            | {"path": source.name, "classes": task.classes, "size": (image.shape[1], image.shape[2])},
            kind=kinds.find(task.kind),
            schema=task.keypoints,
            source=source,
            channels=task.preprocess.channels,
            pixels=weakref.ref(image),
        )

    @property
    def image(self) -> Tensor:
        """The image: [channels, H, W] uint8.

        Raises:
            VertebraError: if it can no longer be read.
        """
        if (pixels := self.pixels()) is not None:
            return pixels
        if self.source is None:
            raise VertebraError("this prediction does not know its image: pass it, as in plot(image=...).")
        return self.source.read(self.channels)

    def plot(self, *, image: Any = None, threshold: float = 0.0, top: int = 3) -> Image.Image:
        """The image with the prediction drawn in, or a caption beneath it: RGB.

        Narrow images are drawn enlarged, those of more than 33 megapixels smaller than they are.

        Args:
            image: what to draw on, instead of the image itself: as `vertebra.load(...).predict` takes it.
            threshold: detections with a lower score are not drawn.
            top: classes in a caption.

        Raises:
            VertebraError: if the image cannot be read, or has another size.
        """
        pixels = self.image if image is None else read_image(image, self.channels)
        size = (pixels.shape[1], pixels.shape[2])
        if self.size is not None and tuple(self.size) != size:
            raise VertebraError(
                f"the image has {size[1]} x {size[0]} pixels, the prediction is for {self.size[1]} x {self.size[0]}."
            )
        return self.kind.draw(pixels, self, self.classes, keypoints=self.schema, threshold=threshold, top=top)

    def save(self, path: str | Path, **options: Any) -> Path:
        """Saves what `plot` draws, with its arguments, as an image file, and returns its path.

        Raises:
            VertebraError: if Pillow has no format of that ending, or the file cannot be written.
        """
        path = Path(path)
        format = Image.registered_extensions().get(path.suffix.lower())
        if format not in Image.SAVE:
            raise VertebraError(f"{path} has no ending of an image file, such as .png or .jpg.")
        drawn = self.plot(**options)
        with replacing(path) as temporary:
            drawn.save(temporary, format)
        return path

    def crops(self) -> Iterator[tuple[Instance, Image.Image]]:
        """Each object and its part of the image, by its box: RGB. Objects outside of the image are left out."""
        return self.kind.crops(self.image, self)

    def without_maps(self) -> ImageResult:
        """For the summary of a video, the masks of all of whose frames would fill the memory."""
        return replace(self, masks=None, keypoints=None, semantic=None, source=None)

    def to_dict(self, *, top: int = 5) -> dict[str, Any]:
        """The prediction as plain values; of classes, the `top` ones."""
        about = {"path": self.path, "size": None if self.size is None else list(self.size)}
        return about | self.kind.record(self, self.classes, top)

    def to_json(self, *, top: int = 5) -> str:
        """`to_dict` in JSON, on one line."""
        return json.dumps(self.to_dict(top=top))

    def to_coco(self, *, image_id: int | None = None, category_ids: Sequence[int] = ()) -> list[dict[str, Any]]:
        """The COCO result of each object.

        Args:
            image_id: the prediction's `id` if None, else 1.
            category_ids: of each class; 1, 2, ... if empty.

        Raises:
            VertebraError: if objects are not what is predicted.
        """
        number = next(number for number in (image_id, self.id, 1) if number is not None)
        return self.kind.to_coco(self, number, category_ids or range(1, len(self.classes) + 1))

    def to_pandas(self) -> Any:
        """A DataFrame with a row per object, or per class of the whole image by descending probability.

        Raises:
            VertebraError: if pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise VertebraError("to_pandas needs pandas, which is not installed: pip install pandas") from error
        return pandas.DataFrame(self.kind.rows(self, self.classes))

    def to_supervision(self) -> Any:
        """The objects as supervision's Detections, with the class names in `data["class_name"]`; classes of whole
        images as its Classifications.

        Raises:
            VertebraError: if supervision is not installed, or has no such form.
        """
        try:
            import supervision
        except ImportError as error:
            raise VertebraError(
                "to_supervision needs supervision, which is not installed: pip install supervision"
            ) from error
        return self.kind.to_supervision(self, self.classes, supervision)

    def _repr_html_(self) -> str:
        """For notebooks: a small drawing and a table."""
        from vertebra.viz import plots

        try:
            drawing = plots.image(plots.fitted(self.plot().convert("RGB"), HTML_SIDE), "prediction", format="jpeg")
        except VertebraError as error:
            drawing = f"<p>{escape(escaped(str(error)))}</p>"
        rows = self.kind.rows(self, self.classes)
        head = "".join(f"<th>{escape(name)}</th>" for name in rows[0]) if rows else ""
        body = "".join(f"<tr>{''.join(map(_cell, row.values()))}</tr>" for row in rows[:HTML_ROWS])
        more = f"<p>and {len(rows) - HTML_ROWS} more</p>" if len(rows) > HTML_ROWS else ""
        return f"<div><p>{escape(repr(self))}</p>{drawing}<table><tr>{head}</tr>{body}</table>{more}</div>"


def _cell(value: Any) -> str:
    return f"<td>{escape(escaped(f'{value:.4g}' if isinstance(value, float) else str(value)))}</td>"
