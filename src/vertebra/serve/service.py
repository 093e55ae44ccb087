"""From requests to answers: the models, their batchers, and what all requests together may take."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any

import torch
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from torch import Tensor

from vertebra import kinds
from vertebra.errors import VertebraError, is_out_of_memory, nearest, shown
from vertebra.predict import ImageResult, Predictor
from vertebra.predict.sources import ImageSource
from vertebra.serve.batching import Batcher
from vertebra.serve.bodies import image_file
from vertebra.serve.explaining import ModelExplainer
from vertebra.serve.limits import Limits
from vertebra.serve.metrics import ServiceMetrics
from vertebra.viz import draw

RETRY = {"Retry-After": "1"}
"""Header of answers to requests that may succeed later."""
SHOWN_CLASSES = 5
"""Classes that are listed where the request does not say how many."""
COLOURS = 32
"""Least number of colours that the page is given: of one class, every object has its own."""
DOWNLOADS = 8
"""URLs that are downloaded at a time."""
MOST_STREAMS = 4
"""Batches that are computed at a time, where nobody says how many."""
MOST_EXPLAINED = 4
"""Explanations that are computed or wait for it, at a time."""
WARM_UP = 64
"""Side in pixels of the image of the first prediction."""

log = logging.getLogger("vertebra.serve")


@dataclass(frozen=True)
class Question:
    """The answer of a model that a request wants to be explained."""

    label: str | None = None
    """Its class; the top-scoring answer's if None."""
    point: tuple[int, int] | None = None
    """x, y of a pixel of its object or region."""
    technique: str | None = None
    """How it is explained; as for ModelExplainer."""


@dataclass(frozen=True)
class Query:
    """What a request for a prediction asks for beside its image."""

    threshold: float | None = None
    """Detections with a lower score are dropped, 0..1; the model's if None."""
    top: int | None = None
    """Classes that are listed, of models that rank classes; SHOWN_CLASSES if None."""
    format: str = "json"
    """`json`, or `image` for the image with the prediction drawn in."""


class Service:
    """The models of an app, with what their requests share."""

    def __init__(self, models: Mapping[str, Predictor], limits: Limits) -> None:
        self.models, self.limits, self.metrics = models, limits, ServiceMetrics()
        self.batchers: dict[str, Batcher] = {}
        self.in_flight = 0
        """Requests for a prediction."""
        self.pixels = 0
        """Of their decoded images."""
        self.downloads = ThreadPoolExecutor(DOWNLOADS, "download")
        self.explainers = {name: ModelExplainer(predictor) for name, predictor in models.items()}
        self.explanations = ThreadPoolExecutor(1, "explain")
        self.explaining = 0
        """Explanations that are computed or wait for it."""

    async def start(self) -> None:
        """Starts the threads, and predicts once with each model, as the first prediction is a slow one."""
        for name, predictor in self.models.items():
            batcher = Batcher(
                predictor,
                max_batch=self.limits.max_batch,
                latency=self.limits.latency_ms / 1000,
                streams=self.limits.streams or _usual_streams(predictor),
                observe=self.metrics.batches.labels(name).observe,
            )
            self.metrics.queue.labels(name).set_function(batcher.waiting)
            self.batchers[name] = batcher
            batcher.start()
            blank = torch.zeros(predictor.task.preprocess.channels, WARM_UP, WARM_UP, dtype=torch.uint8)
            await asyncio.wrap_future(batcher.submit(ImageSource("", blank)))

    async def stop(self) -> None:
        for batcher in self.batchers.values():
            await asyncio.to_thread(batcher.close)

    @property
    def ready(self) -> bool:
        return len(self.batchers) == len(self.models) and all(batcher.ready for batcher in self.batchers.values())

    def only(self) -> str:
        """The name of the model, if there is one only."""
        if len(self.models) > 1:
            names = ", ".join(self.models)
            raise HTTPException(404, f"there are several models: use /models/NAME/predict with one of {names}.")
        return next(iter(self.models))

    def describe(self, name: str) -> dict[str, Any]:
        """What a client needs to know of a model."""
        predictor = self.models[name]
        colours = [draw.colour(i) for i in range(max(len(predictor.classes), COLOURS))]
        schema = predictor.keypoints
        return {
            "name": name,
            "task": predictor.task.task_name,
            "predicts": predictor.kind.description,
            "classes": list(predictor.classes),
            "colours": [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours],
            "threshold": predictor.threshold if "threshold" in predictor.kind.options else None,
            "ranks_classes": "top" in predictor.kind.options,
            "techniques": self.explainers[name].titles,
            "explains_points": "point" in predictor.kind.options,
            "keypoints": None if schema is None else {"names": schema.names, "skeleton": schema.skeleton},
        }

    async def answer(self, name: str, request: Request, query: Query | Question) -> Response:
        """The answer to a request for a prediction of the model `name`, or for an explanation of one.

        Raises:
            HTTPException: with one sentence, whatever is wrong with the request.
        """
        if name not in self.models:
            hint = nearest(name, self.models)
            raise HTTPException(404, f"no model is called {shown(name)}; there are {', '.join(self.models)}.{hint}")
        try:
            with self._admitted(), _as_http():
                return await self._answer(name, request, query)
        except HTTPException as error:
            self.metrics.failures.labels(name, error.status_code).inc()
            raise

    async def _answer(self, name: str, request: Request, query: Query | Question) -> Response:
        predictor, seconds = self.models[name], self.limits.timeout
        for option in ("threshold", "top", "point"):
            if getattr(query, option, None) is not None:
                kinds.check_option(option, predictor.task)
        late = HTTPException(408, f"the request did not arrive within {seconds:g} seconds.")
        try:
            async with asyncio.timeout(seconds):
                encoded = await image_file(request, self.limits, self.downloads)
                late = HTTPException(504, f"there was no answer within {seconds:g} seconds.", RETRY)
                height, width = await asyncio.to_thread(encoded.size)
                channels = predictor.task.preprocess.channels
                with self._decoding(height * width, partial(encoded.read, channels)) as reading:
                    image = await asyncio.shield(reading)
                    if isinstance(query, Question):
                        return await self._explanation(name, image, query)
                    source = ImageSource(encoded.name, image)
                    future = self.batchers[name].submit(source, query.threshold)
                    result = await asyncio.wrap_future(future)
                    return await asyncio.to_thread(self._response, name, result, query)
        except TimeoutError:
            raise late from None

    async def _explanation(self, name: str, image: Tensor, question: Question) -> Response:
        """The image under the colours of an explanation. One that is no longer waited for ends before its next forward
        pass, so that few may wait."""
        if self.explaining >= MOST_EXPLAINED:
            raise HTTPException(503, f"{self.explaining} explanations are computed; try again later.", headers=RETRY)
        explain = self.explainers[name].explain
        self.explaining += 1
        abandoned = Event()
        future = asyncio.get_running_loop().run_in_executor(
            self.explanations, explain, image, question.label, question.point, question.technique, abandoned
        )
        future.add_done_callback(self._explained)
        try:
            drawn = await asyncio.shield(future)
        except asyncio.CancelledError:
            abandoned.set()
            raise
        return Response(await asyncio.to_thread(_png, drawn), media_type="image/png")

    def _explained(self, future: asyncio.Future[Image.Image]) -> None:
        self.explaining -= 1
        if not future.cancelled():
            future.exception()  # it may be waited for by no one

    def _response(self, name: str, result: ImageResult, query: Query) -> Response:
        """What `vertebra predict --stream` writes of an image, the maps as PNG in base64, and what decided on it; or
        the drawn image."""
        top = query.top or SHOWN_CLASSES
        if query.format == "image":
            return Response(_png(result.plot(top=top)), media_type="image/png")
        about: dict[str, Any] = {"model": name}
        if "threshold" in result.kind.options:
            about["threshold"] = self.models[name].threshold if query.threshold is None else query.threshold
        images = result.kind.map_images(result, result.classes)
        maps = {key: base64.b64encode(_png(image)).decode() for key, image in images.items()}
        content = json.dumps(about | result.to_dict(top=top) | maps, allow_nan=False)
        return Response(content, media_type="application/json")

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Counts a request while it is in flight, if there is room for it."""
        if self.in_flight >= self.limits.max_in_flight:
            raise HTTPException(
                503, f"{self.in_flight} requests are in flight, the most there may be; try again later.", headers=RETRY
            )
        self.in_flight += 1
        self.metrics.in_flight.set(self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1
            self.metrics.in_flight.set(self.in_flight)

    @contextmanager
    def _decoding(self, pixels: int, read: Callable[[], Tensor]) -> Iterator[asyncio.Future[Tensor]]:
        """Reads an image in a thread, if there is room for its pixels, which count while it is in memory: until
        the thread ends, though nobody may wait for it any more."""
        if pixels > self.limits.max_pixels:
            raise HTTPException(
                413, f"the image has {pixels:,} pixels; {self.limits.max_pixels:,} are the most that is decoded."
            )
        if self.pixels + pixels > self.limits.pixels_in_flight:
            raise HTTPException(503, "the images in flight have too many pixels; try again later.", headers=RETRY)
        reading = asyncio.get_running_loop().run_in_executor(None, read)
        self.pixels += pixels

        def release(future: asyncio.Future[Tensor]) -> None:
            self.pixels -= pixels
            if not future.cancelled():
                future.exception()  # which nobody else may ask for

        try:
            yield reading
        finally:
            if reading.done():
                release(reading)
            else:
                reading.add_done_callback(release)


def _usual_streams(predictor: Predictor) -> int:
    """The streams of a model: on a CPU one per core, for engines that run well in several threads."""
    if predictor.device.type != "cpu" or predictor.engine not in ("eager", "folded", "onnx"):
        return 1
    return min(MOST_STREAMS, torch.get_num_threads())


@contextmanager
def _as_http() -> Iterator[None]:
    """Raises the errors of an image or of the model as HTTPException; none holds more than the client may see."""
    try:
        yield
    except (HTTPException, TimeoutError, asyncio.CancelledError):
        raise
    except ClientDisconnect:
        raise HTTPException(400, "the connection was closed before the end of the request.") from None
    except VertebraError as error:
        raise HTTPException(400, str(error)) from None
    except Exception as error:
        if is_out_of_memory(error):
            raise HTTPException(503, "there is not enough memory for this image now.", headers=RETRY) from error
        log.exception("a prediction failed")
        raise HTTPException(500, "the prediction on this image failed.") from error


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=1)
    return content.getvalue()
