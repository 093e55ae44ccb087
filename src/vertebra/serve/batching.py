"""Micro-batches: images of requests that arrive within a latency budget go through the model together."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from queue import Empty, Queue

import torch

from vertebra.predict import ImageResult, Predictor
from vertebra.predict.sources import ImageSource


@dataclass
class _Waiting:
    """An image that waits for its prediction."""

    source: ImageSource
    threshold: float | None
    future: Future[ImageResult] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class Cores:
    """Cores that the threads inside this context share."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = threading.Lock()
        self._busy = 0

    def __enter__(self) -> None:
        with self._lock:
            self._busy += 1
            share = max(1, self.count // self._busy)
        torch.set_num_threads(share)  # of the parallel regions that this thread starts

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._busy -= 1


class Batcher:
    """A queue before one model, and the threads that take batches from it.

    The first image of a batch waits for others until it has waited for the latency budget since its arrival: under
    load, where images queue up while the model computes, no batch waits. Predictions equal those of
    `predictor.predict` for the image alone. If a batch fails, its images are predicted one by one, so that only those
    fail that cannot be predicted.

    Several streams share the cores of a CPU: two batches on a core each take less time than one after the other on two
    cores, which wait for each other at every layer.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        max_batch: int,
        latency: float,
        streams: int = 1,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        """
        Args:
            max_batch: most images of a batch.
            latency: the latency budget in seconds.
            streams: most batches that are computed at a time.
            observe: called with the size of every batch.
        """
        self.predictor, self.max_batch, self.latency, self.observe = predictor, max_batch, latency, observe
        self._queue: Queue[_Waiting | None] = Queue()
        self._threads = [threading.Thread(target=self._run, name="batcher", daemon=True) for _ in range(streams)]
        self._collecting = threading.Lock()
        self._cores = Cores(torch.get_num_threads()) if streams > 1 else None
        self._closed = False

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Returns when all images that wait are predicted; no further ones are taken."""
        self._closed = True
        self._queue.put(None)
        for thread in self._threads:
            thread.join()

    @property
    def ready(self) -> bool:
        """Whether images are taken and predicted."""
        return all(thread.is_alive() for thread in self._threads) and not self._closed

    def waiting(self) -> int:
        """Images in the queue."""
        return self._queue.qsize()

    def submit(self, source: ImageSource, threshold: float | None = None) -> Future[ImageResult]:
        """The prediction that will be there for an image in memory; cancelled, it leaves the queue.

        Args:
            source: its `image` is a tensor [C, H, W] uint8.
            threshold: as for `predictor.predict`.
        """
        waiting = _Waiting(source, threshold)
        self._queue.put(waiting)
        return waiting.future

    def _run(self) -> None:
        while self._step():  # whose variables end with it, and with them the images that they hold
            pass

    def _step(self) -> bool:
        """Predicts on the next batch; whether there was one before the end."""
        with self._collecting:  # so that images that arrive together share a batch
            first = self._queue.get()
            if first is None:
                self._queue.put(None)  # for the other streams
                return False
            batch = self._batch(first)
        # Images with one threshold go through the model together.
        groups: dict[float | None, list[_Waiting]] = defaultdict(list)
        for waiting in batch:
            if waiting.future.set_running_or_notify_cancel():
                groups[waiting.threshold].append(waiting)
        with self._cores or nullcontext():
            for group in groups.values():
                self._predict(group)
        return True

    def _batch(self, first: _Waiting) -> list[_Waiting]:
        batch, deadline = [first], first.arrived + self.latency
        while len(batch) < self.max_batch:
            try:
                waiting = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                break
            if waiting is None:
                self._queue.put(None)  # for the step after this one
                break
            batch.append(waiting)
        return batch

    def _predict(self, group: Sequence[_Waiting]) -> None:
        self.observe(len(group))
        try:
            sources = [waiting.source for waiting in group]
            results = self.predictor.predict(sources, batch_size=len(group), threshold=group[0].threshold)
        except Exception as error:
            if len(group) == 1:
                group[0].future.set_exception(error)
                return
            for waiting in group:
                self._predict([waiting])
            return
        for waiting, result in zip(group, results, strict=True):
            waiting.future.set_result(result)
