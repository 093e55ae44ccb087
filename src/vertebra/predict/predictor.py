"""A checkpoint and pictures in, Predictions out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vertebra import pictures
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError, in_range, one_of
from vertebra.nn.fold import fold
from vertebra.predict import tiles, views
from vertebra.structures import Points, Prediction, Preprocess

PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""What convolutions and matrix products are computed in, by the names that training has for it."""
SORTED = 4
"""So many batches of pictures are read ahead, where their shapes differ, to put those of like shape together."""
READ_AHEAD = 64_000_000
"""No more pixels than these are read ahead, but for a single picture."""


@dataclass(frozen=True)
class _Wish:
    """How to ask; the fields are arguments of `Predictor.predict`."""

    batch_size: int
    threshold: float
    tile: int
    overlap: float
    tta: bool


class Predictor:
    """A trained model made fast: batch norm folded into the convolutions, channels-last memory, fused operators.

    Its answers equal the trained model's to rounding; it can no longer be trained. For that, make a model with
    `vertebra.create(..., weights=path)`.
    """

    def __init__(self, path: str | Path, *, device: str | None = None, precision: str = "32-true") -> None:
        """See `vertebra.load`."""
        one_of("precision", precision, PRECISIONS)
        self.precision = precision
        self.task, self.about = checkpoint.load(path, device=device)
        fold(self.task)
        self.task.to(memory_format=torch.channels_last)
        self.device = next(self.task.parameters()).device
        if precision == "16-mixed" and self.device.type == "cpu":
            raise VertebraError("precision 16-mixed is for GPUs; on a CPU choose bf16-mixed.")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the probabilities."""
        return self.task.classes

    @property
    def finds_objects(self) -> bool:
        """Whether the answers are objects in the picture; else they are about the whole of it."""
        return self.task.truth in ("boxes", "masks", "keypoints")

    @property
    def points(self) -> Points | None:
        """The keypoints that every object has, where the task finds such."""
        return getattr(self.task.config, "points", None)

    @property
    def threshold(self) -> float:
        """The score from which an object counts if nothing else is asked for: the checkpoint's own, or 0.5."""
        measured = (self.about.get("metrics") or {}).get("threshold")
        return 0.5 if measured is None else float(measured)

    def raw(self, images: Tensor) -> Any:
        """What the task's `forward` gives for a batch that is already normalised: [B, C, H, W] float32."""
        with torch.inference_mode(), self._autocast():
            return self.task(self._place(images))

    def _autocast(self) -> torch.autocast:
        kind = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, kind, enabled=kind is not None)

    def _place(self, images: Tensor) -> Tensor:
        return images.to(self.device).contiguous(memory_format=torch.channels_last)

    def predict(
        self,
        images: Any,
        *,
        batch_size: int = 16,
        threshold: float | None = None,
        tile: int = 0,
        overlap: float = 0.2,
        tta: bool = False,
    ) -> list[Prediction]:
        """Predictions for one picture or a sequence of them, in their order.

        Args:
            images: path, PIL image, array [H, W, C] or tensor [C, H, W] (uint8, or floats in 0..1), a sequence of
                such, or a tensor [B, C, H, W].
            batch_size: pictures that go through the network together.
            threshold: objects with a lower score are left out, 0..1; None takes `self.threshold`.
            tile: pictures with a longer side are cut into tiles of so many pixels, and what is found in those is
                put together; 0 asks about every picture as a whole.
            overlap: the least share of a tile's side that neighbours have in common, above 0 and up to 0.5; objects
                that are smaller are seen whole by one tile at least.
            tta: ask about each picture mirrored too, and make one answer of all; where objects are to be found, and
                the backbone takes any size, also smaller and larger.

        Raises:
            VertebraError: if a picture cannot be read (`stream` passes such by), an argument is out of its range, or
                it is for tasks that find objects and this one does not.
        """
        many = pictures.listed(images)
        found = []
        for answer in self.stream(
            many, batch_size=batch_size, threshold=threshold, tile=tile, overlap=overlap, tta=tta
        ):
            if isinstance(answer, pictures.BrokenPicture):
                raise answer
            found.append(answer)
        return found

    def stream(
        self,
        images: Iterable[Any],
        *,
        batch_size: int = 1,
        threshold: float | None = None,
        tile: int = 0,
        overlap: float = 0.2,
        tta: bool = False,
    ) -> Iterator[Prediction | pictures.BrokenPicture]:
        """For each picture in turn its Prediction, or the error that says why it cannot be read.

        Pictures are read as they are needed, a few batches ahead. Arguments and errors as in `predict`.
        """
        for name, given in (("threshold", threshold is not None), ("tile", tile != 0)):
            if given and not self.finds_objects:
                raise VertebraError(f"{name} is for models that find objects; this one is for {self.task.name}.")
        in_range("batch_size", batch_size, 1)
        in_range("threshold", threshold, 0, 1)
        if tile < 0 or 0 < tile < 16:
            raise VertebraError(f"tile is {tile}; it must be 16 pixels or more, or 0 for whole pictures.")
        if not 0 < overlap <= 0.5:
            raise VertebraError(f"overlap is {overlap}; it must be above 0 and 0.5 at most.")
        threshold = self.threshold if threshold is None else threshold
        return self._stream(images, _Wish(batch_size, threshold, tile, overlap, tta))

    def _stream(self, images: Iterable[Any], wish: _Wish) -> Iterator[Prediction | pictures.BrokenPicture]:
        ahead = wish.batch_size
        if ahead > 1 and self.task.preprocess.resize == "shortest":  # else the inputs are of one size anyway
            ahead *= SORTED
        waiting: list[tuple[str, Tensor | pictures.BrokenPicture]] = []
        pixels = 0
        for image in images:
            path = str(image) if isinstance(image, str | Path) else ""
            try:
                picture = pictures.read(image, self.task.preprocess.channels)
                pixels += picture.shape[1] * picture.shape[2]
                waiting.append((path, picture))
            except pictures.BrokenPicture as error:
                waiting.append((path, error))
            if len(waiting) == ahead or pixels > READ_AHEAD:
                yield from self._answers(waiting, wish)
                waiting, pixels = [], 0
        yield from self._answers(waiting, wish)

    def _answers(
        self, waiting: Sequence[tuple[str, Tensor | pictures.BrokenPicture]], wish: _Wish
    ) -> Iterator[Prediction | pictures.BrokenPicture]:
        readable = {i: picture for i, (_, picture) in enumerate(waiting) if isinstance(picture, Tensor)}
        large = [i for i, picture in readable.items() if wish.tile and max(picture.shape[1:]) > wish.tile]
        small = [i for i in readable if i not in large]
        answers = dict(zip(small, self._seen([readable[i] for i in small], wish), strict=True))
        for i, (path, picture) in enumerate(waiting):
            if not isinstance(picture, Tensor):
                yield picture
                continue
            answer = answers[i] if i in answers else self._tiled(picture, wish)
            answer.path = path
            yield answer

    def _tiled(self, picture: Tensor, wish: _Wish) -> Prediction:
        size = (picture.shape[1], picture.shape[2])
        places = tiles.grid(size, wish.tile, wish.overlap)
        found: list[Prediction] = []
        for start in range(0, len(places), wish.batch_size):
            boxes = [place.box for place in places[start : start + wish.batch_size]]
            found += self._seen([picture[:, y1:y2, x1:x2] for x1, y1, x2, y2 in boxes], wish)
        return tiles.merge(found, places, size)

    def _seen(self, many: Sequence[Tensor], wish: _Wish) -> list[Prediction]:
        """Predictions for pictures [C, H, W] uint8, from one view of each or from several."""
        if not wish.tta:
            return self._asked(many, self.task.preprocess, wish)
        flipped = [picture.flip(-1) for picture in many]
        by_view: list[list[Prediction]] = []
        scales = views.SCALES if self.finds_objects and self.task.backbone.any_size else (1.0,)
        for scale in scales:
            preprocess = views.scaled(self.task.preprocess, scale)
            by_view.append(self._asked(many, preprocess, wish))
            by_view.append(
                [
                    views.mirrored(prediction, picture.shape[2], self.points)
                    for picture, prediction in zip(many, self._asked(flipped, preprocess, wish), strict=True)
                ]
            )
        merge = views.merge if self.finds_objects else views.averaged
        return [merge(one) for one in zip(*by_view, strict=True)]

    def _asked(self, many: Sequence[Tensor], preprocess: Preprocess, wish: _Wish) -> list[Prediction]:
        """Predictions for pictures [C, H, W] uint8; those of like shape go through the network together."""
        frames = [pictures.frame((picture.shape[1], picture.shape[2]), preprocess) for picture in many]
        order = sorted(range(len(many)), key=lambda i: frames[i].scaled)
        found: dict[int, Prediction] = {}
        for start in range(0, len(order), wish.batch_size):
            chosen = order[start : start + wish.batch_size]
            batch = pictures.batched([pictures.prepare(many[i], preprocess) for i in chosen], preprocess)
            with torch.inference_mode(), self._autocast():
                answers = self.task.infer(self._place(batch), [frames[i] for i in chosen])
            found.update(zip(chosen, answers, strict=True))
        return [self._sure(found[i], wish.threshold) for i in range(len(many))]

    def _sure(self, prediction: Prediction, threshold: float) -> Prediction:
        if not self.finds_objects:
            return prediction
        assert prediction.scores is not None
        return prediction.take(torch.nonzero(prediction.scores >= threshold).flatten().tolist())

    def embed(self, images: Any, *, batch_size: int = 16) -> Tensor:
        """The backbone's pooled features of pictures, as `predict` takes them: -> [N, width] float32 on the CPU."""
        many = pictures.listed(images)
        batches = (many[i : i + batch_size] for i in range(0, len(many), batch_size))
        found = []
        with torch.inference_mode(), self._autocast():
            for batch in batches:
                images = self._place(pictures.prepare_all(batch, self.task.preprocess)[0])
                found.append(self.task.backbone.embed(images).float().cpu())
        return torch.cat(found)
