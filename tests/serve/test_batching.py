"""Micro-batches: which images go through the model together, and what fails alone."""

import threading
import time

import pytest
import torch

from vertebra.predict.sources import ImageSource
from vertebra.serve.batching import Batcher, Cores


class Recorder:
    """In place of a Predictor: notes its batches, and fails on images whose first value is 13."""

    def __init__(self):
        self.batches, self.free = [], threading.Event()
        self.free.set()

    def predict(self, sources, *, batch_size, threshold):
        assert batch_size == len(sources)
        values = [int(source.image[0, 0, 0]) for source in sources]
        self.batches.append((values, threshold))
        assert self.free.wait(60)
        if 13 in values:
            raise ValueError("thirteen")
        return values


def image(value):
    return ImageSource(str(value), torch.full((3, 2, 2), value, dtype=torch.uint8))


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def make(recorder):
    """Starts a Batcher, which is closed at the end."""
    started = []

    def start(**options):
        sizes = []
        batcher = Batcher(recorder, **{"max_batch": 4, "latency": 0.0} | options, observe=sizes.append)
        batcher.sizes = sizes
        started.append(batcher)
        batcher.start()
        return batcher

    yield start
    recorder.free.set()
    for batcher in started:
        batcher.close()


def occupy(batcher, recorder):
    """Makes the model busy with a first image, so that those that follow queue up."""
    recorder.free.clear()
    future = batcher.submit(image(0))
    while not recorder.batches:
        time.sleep(0.001)
    return future


def test_images_that_queue_up_go_together(make, recorder):
    batcher = make()
    first = occupy(batcher, recorder)
    futures = [batcher.submit(image(value)) for value in range(1, 7)]
    assert batcher.waiting() == 6
    recorder.free.set()
    assert [future.result(60) for future in (first, *futures)] == list(range(7))
    assert [values for values, _ in recorder.batches] == [[0], [1, 2, 3, 4], [5, 6]]
    assert batcher.sizes == [1, 4, 2]


def test_the_first_image_waits_for_the_latency_budget(make, recorder):
    batcher = make(latency=0.3)
    begin = time.monotonic()
    first = batcher.submit(image(1))
    time.sleep(0.05)
    second = batcher.submit(image(2))
    assert (first.result(60), second.result(60)) == (1, 2)
    assert [values for values, _ in recorder.batches] == [[1, 2]]
    assert 0.29 <= time.monotonic() - begin < 5


def test_a_full_batch_does_not_wait(make, recorder):
    batcher = make(latency=60)
    futures = [batcher.submit(image(value)) for value in range(4)]
    assert [future.result(60) for future in futures] == [0, 1, 2, 3]


def test_one_image_fails_alone(make, recorder):
    batcher = make()
    first = occupy(batcher, recorder)
    futures = [batcher.submit(image(value)) for value in (1, 13, 2)]
    recorder.free.set()
    assert [first.result(60), futures[0].result(60), futures[2].result(60)] == [0, 1, 2]
    with pytest.raises(ValueError, match="thirteen"):
        futures[1].result(60)
    assert batcher.submit(image(5)).result(60) == 5  # the thread lives on


def test_images_with_other_thresholds_go_through_apart(make, recorder):
    batcher = make()
    occupy(batcher, recorder)
    futures = [batcher.submit(image(value), threshold) for value, threshold in ((1, 0.5), (2, None), (3, 0.5))]
    recorder.free.set()
    assert [future.result(60) for future in futures] == [1, 2, 3]
    assert sorted(recorder.batches[1:], key=str) == [([1, 3], 0.5), ([2], None)]


def test_cancelled_images_leave_the_queue(make, recorder):
    batcher = make()
    occupy(batcher, recorder)
    futures = [batcher.submit(image(value)) for value in (1, 2, 3)]
    assert futures[1].cancel()
    recorder.free.set()
    assert (futures[0].result(60), futures[2].result(60)) == (1, 3)
    assert recorder.batches[1][0] == [1, 3]


def test_closing_predicts_what_waits(make, recorder):
    batcher = make(latency=60)
    occupied = occupy(make(), recorder)
    futures = [batcher.submit(image(value)) for value in (1, 2)]
    assert batcher.ready
    recorder.free.set()
    batcher.close()
    assert [future.result(0) for future in futures] == [1, 2]
    assert not batcher.ready
    assert occupied.result(60) == 0


def test_no_image_stays_in_memory(make, recorder):
    import gc
    import weakref

    batcher = make()
    source = image(1)
    reference = weakref.ref(source)
    assert batcher.submit(source).result(60) == 1
    del source
    recorder.batches.clear()
    for _ in range(1000):
        if reference() is None:
            break
        time.sleep(0.002)
        gc.collect()
    assert reference() is None


def test_streams_compute_at_the_same_time(make, recorder):
    batcher = make(streams=2, max_batch=1)
    recorder.free.clear()
    futures = [batcher.submit(image(value)) for value in range(3)]
    while len(recorder.batches) < 2:
        time.sleep(0.001)
    assert batcher.ready
    assert batcher.waiting() == 1
    recorder.free.set()
    assert [future.result(60) for future in futures] == [0, 1, 2]
    batcher.close()
    assert not batcher.ready


def test_streams_share_the_cores():
    cores, shares, entered = Cores(4), [], threading.Barrier(3)

    def compute():
        with cores:
            shares.append(torch.get_num_threads())
            entered.wait(60)

    threads = [threading.Thread(target=compute) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(shares) == [1, 2, 4]
    before = torch.get_num_threads()
    with cores:  # alone
        assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


def test_batches_change_no_prediction(models):
    pixels = [torch.randint(0, 255, (3, 40, 48 + i), dtype=torch.uint8) for i in range(5)]
    predictor = models["category"]
    batcher = Batcher(predictor, max_batch=8, latency=0.2)
    batcher.start()
    futures = [batcher.submit(ImageSource("", x)) for x in pixels]
    together = torch.stack([future.result(60).probabilities for future in futures])
    batcher.close()
    alone = torch.stack([predictor.predict(x)[0].probabilities for x in pixels])
    assert torch.allclose(together, alone, atol=1e-6)
