"""What the service refuses: one sentence with a status of its own, and nothing of the server in it."""

import asyncio
import base64
import io
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from tests.serve.conftest import png

from vertebra.errors import VertebraError
from vertebra.predict.explain import techniques
from vertebra.predict.sources import EncodedImage
from vertebra.serve.app import create_app
from vertebra.serve.limits import Limits

URL = "/models/boxes/predict"


def detail(response, status):
    """The one sentence of an error."""
    assert response.status_code == status, response.text
    content = response.json()
    assert set(content) == {"detail"}
    assert content["detail"].count("\n") == 0
    assert content["detail"].endswith((".", "?")), content
    assert "/tmp" not in content["detail"]
    assert "Traceback" not in content["detail"]
    return content["detail"]


def broken_images(photo):
    """Files that are no image, or only the beginning of one."""
    jpeg = io.BytesIO()
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(jpeg, "JPEG")
    huge = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(huge)) + b"IHDR" + huge + struct.pack(">I", zlib.crc32(b"IHDR" + huge))
    yield from (b"x", b"\0" * 100, photo[:40], photo[: len(photo) // 2], jpeg.getvalue()[:200], photo[8:])
    yield from (b"GIF89a", b"RIFF\xff\xff\xff\xffWEBPVP8 ", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>", b"P6 99 99 255\n")
    yield b"\x89PNG\r\n\x1a\n" + chunk


def test_broken_images_are_refused(client, photo):
    for content in broken_images(photo):
        for form in ({"content": content}, {"files": {"f": ("a.png", content)}}):
            sentence = detail(client.post(URL, **form), 400)
            assert sentence.startswith(("image: ", "a.png: "))
        assert detail(client.post(URL, json={"image": base64.b64encode(content).decode()}), 400)


@pytest.mark.parametrize(
    ("status", "sentence", "options"),
    [
        (400, "image is empty (0 bytes)", {}),
        (400, "the body is no JSON", {"content": b"{", "headers": {"content-type": "application/json"}}),
        (400, "the body is no JSON", {"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}),
        (400, 'the body must be {"image": BASE64}', {"json": []}),
        (400, 'the body must be {"image": BASE64}', {"json": {"image": "", "url": ""}}),
        (400, 'the body must be {"image": BASE64}', {"json": {"path": "/etc/passwd"}}),
        (400, "image is 3; it must be a string", {"json": {"image": 3}}),
        (400, "image is no base64", {"json": {"image": "???"}}),
        (400, "image is no base64", {"json": {"image": "caf\u00e9"}}),
        (400, "this service downloads no images", {"json": {"url": "http://example.org/a.png"}}),
        (400, "the form has no file", {"data": {"image": "text"}, "files": {}, "boundary": True}),
        (400, "", {"content": b"--x", "headers": {"content-type": "multipart/form-data; boundary=x"}}),
        (400, "", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}),
        (400, "", {"files": [("a", b"1"), ("b", b"2")]}),
        (415, "the content type is 'text/html'", {"content": b"x", "headers": {"content-type": "text/html"}}),
        (422, "threshold is '2'", {"params": {"threshold": 2}}),
        (422, "threshold is 'nan'", {"params": {"threshold": "nan"}}),
        (422, "threshold is 'x'", {"params": {"threshold": "x"}}),
        (422, "top is '0'", {"params": {"top": 0}}),
        (422, "format is 'tiff'", {"params": {"format": "tiff"}}),
    ],
)
def test_malformed_requests_are_refused(client, status, sentence, options):
    if options.pop("boundary", False):
        body = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\ntext\r\n--x--\r\n'
        options = {"content": body, "headers": {"content-type": "multipart/form-data; boundary=x"}}
    assert detail(client.post(URL, **options), status).startswith(sentence)


def test_wrong_pages_and_methods(client, photo):
    assert "there is no such page" in detail(client.get("/nothing"), 404)
    assert "does not have that method" in detail(client.get("/predict"), 405)
    assert "no model is called 'x y'" in detail(client.post("/models/x%20y/predict", content=photo), 404)
    detail(client.post("/models/..%2F..%2Fetc/predict", content=photo), 404)


def test_bodies_are_limited_while_they_are_read(models):
    limits = Limits(max_body_mb=0.01)
    sent = []

    def endless():
        for _ in range(1000):
            sent.append(1)
            yield b"\0" * 4096

    with TestClient(create_app({"boxes": models["boxes"]}, limits)) as client:
        assert "more than 10,485 bytes" in detail(client.post(URL, content=b"\0" * 20_000), 413)
        assert "more than 10,485 bytes" in detail(client.post(URL, files={"f": b"\0" * 20_000}), 413)
        assert "more than 10,485 bytes" in detail(client.post(URL, json={"image": "A" * 20_000}), 413)

    async def streamed():
        """Without a Content-Length; the body is not read to its end."""
        taken = 0

        async def receive():
            nonlocal taken
            taken += 1
            return {"type": "http.request", "body": b"\0" * 4096, "more_body": True}

        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": URL, "raw_path": URL.encode(), "query_string": b""}
        scope |= {"headers": [], "http_version": "1.1", "scheme": "http", "root_path": ""}
        await create_app({"boxes": models["boxes"]}, limits)(scope, receive, send)
        return taken, sent[0]["status"]

    assert asyncio.run(streamed()) == (3, 413)


def test_pixels_are_limited_before_they_are_decoded(models, monkeypatch):
    with TestClient(create_app({"boxes": models["boxes"]}, Limits(max_pixels=2000))) as client:
        assert client.post(URL, content=png(np.zeros((40, 50, 3), np.uint8))).status_code == 200
        monkeypatch.setattr("vertebra.predict.sources.read_image", None)
        sentence = detail(client.post(URL, content=png(np.zeros((40, 51, 3), np.uint8))), 413)
        assert sentence == "the image has 2,040 pixels; 2,000 are the most that is decoded."


class Held:
    """Makes a model wait until `released` is set."""

    def __init__(self, predictor, monkeypatch):
        self.entered, self.released = threading.Event(), threading.Event()
        original = predictor.predict

        def predict(*arguments, **options):
            self.entered.set()
            assert self.released.wait(60)
            return original(*arguments, **options)

        monkeypatch.setattr(predictor, "predict", predict)


@pytest.fixture
def held(models, monkeypatch):
    holder = Held(models["boxes"], monkeypatch)
    yield holder
    holder.released.set()


def test_a_full_service_asks_to_come_again(models, photo, monkeypatch):
    with TestClient(create_app({"boxes": models["boxes"]}, Limits(max_in_flight=2, latency_ms=0))) as client:
        held = Held(models["boxes"], monkeypatch)
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(client.post, URL, content=photo) for _ in range(2)]
            assert held.entered.wait(60)
            until(lambda: client.app.state.service.in_flight == 2)
            refused = client.post(URL, content=photo)
            assert "2 requests are in flight" in detail(refused, 503)
            assert refused.headers["retry-after"] == "1"
            assert client.get("/health").status_code == 200
            held.released.set()
            assert [future.result().status_code for future in futures] == [200, 200]
        assert client.post(URL, content=photo).status_code == 200
        assert (client.app.state.service.in_flight, client.app.state.service.pixels) == (0, 0)


def test_images_in_flight_have_a_limit_of_pixels(models, photo, monkeypatch):
    with TestClient(create_app({"boxes": models["boxes"]}, Limits(max_pixels=3000))) as client:
        client.app.state.service.pixels = 9_001  # of 12,000; the image has 3,000
        refused = client.post(URL, content=photo)
        assert "too many pixels" in detail(refused, 503)
        client.app.state.service.pixels = 9_000
        assert client.post(URL, content=photo).status_code == 200


def test_an_image_that_is_read_too_long_keeps_its_pixels(models, photo, monkeypatch):
    """The thread that reads it goes on after the answer, and its memory is taken until it ends."""
    entered, released, read = threading.Event(), threading.Event(), EncodedImage.read

    def slow(self, channels):
        entered.set()
        released.wait(60)
        return read(self, channels)

    with TestClient(create_app({"boxes": models["boxes"]}, Limits(timeout=0.3, latency_ms=0))) as client:
        monkeypatch.setattr(EncodedImage, "read", slow)
        assert detail(client.post(URL, content=photo), 504)
        assert entered.is_set()
        service = client.app.state.service
        assert service.pixels > 0
        released.set()
        deadline = time.monotonic() + 20
        while service.pixels and time.monotonic() < deadline:
            time.sleep(0.01)
        assert service.pixels == 0


def test_a_request_takes_no_longer_than_it_may(models, photo, monkeypatch):
    with TestClient(create_app({"boxes": models["boxes"]}, Limits(timeout=0.5, latency_ms=0))) as client:
        held = Held(models["boxes"], monkeypatch)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(client.post, URL, content=photo)
            assert held.entered.wait(60)
            second = pool.submit(client.post, URL, content=photo)  # which leaves the queue again
            assert "no answer within 0.5 seconds" in detail(first.result(), 504)
            assert detail(second.result(), 504)
        batches = client.app.state.service.batchers["boxes"]
        held.released.set()
        assert client.post(URL, content=photo).status_code == 200
        assert batches.waiting() == 0


def test_a_model_that_fails_says_so_in_one_sentence(models, photo, monkeypatch):
    with TestClient(create_app({"boxes": models["boxes"]})) as client:
        monkeypatch.setattr(models["boxes"].task, "infer", fail)
        assert detail(client.post(URL, content=photo), 500) == "the prediction on this image failed."
        monkeypatch.setattr(models["boxes"].task, "infer", exhaust)
        assert "not enough memory" in detail(client.post(URL, content=photo), 503)
        monkeypatch.undo()
        assert client.post(URL, content=photo).status_code == 200


def fail(*_, **__):
    raise RuntimeError("of /tmp/secret")


def exhaust(*_, **__):
    raise MemoryError


def test_the_token(models, photo):
    with TestClient(create_app({"boxes": models["boxes"]}, token="seßam")) as client:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic x"},
            {"Authorization": "Bearer"},
        ):
            refused = client.post(URL, content=photo, headers=headers)
            assert "Authorization: Bearer TOKEN" in detail(refused, 401)
            assert refused.headers["www-authenticate"] == "Bearer"
            assert client.get("/models", headers=headers).status_code == 401
            assert client.get("/metrics", headers=headers).status_code == 401
        given = {"Authorization": "Bearer seßam".encode()}
        assert client.post(URL, content=photo, headers=given).status_code == 200
        for path in ("/", "/docs", "/page/page.js", "/health", "/ready"):
            assert client.get(path).status_code == 200


def test_models_that_cannot_be_served(models, monkeypatch):
    with pytest.raises(VertebraError, match="there is no model"):
        create_app({})
    task = models["boxes"].task
    monkeypatch.setattr(task, "preprocess", replace(task.preprocess, mean=(0.0,) * 4, std=(1.0,) * 4))
    with pytest.raises(VertebraError, match="boxes takes images of 4 channels; image files have 1 or 3"):
        create_app({"boxes": models["boxes"]})
    monkeypatch.setattr(type(models["boxes"].kind), "instead", "is for `vertebra refine`")
    with pytest.raises(VertebraError, match="a model for blobs is for `vertebra refine`"):
        create_app({"boxes": models["boxes"]})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_batch": 0}, "max_batch is 0"),
        ({"timeout": 0.0}, "timeout is 0"),
        ({"latency_ms": -1.0}, "latency_ms is -1"),
        ({"allow_urls": ("http://example.org",)}, "allow_urls has 'http://example.org'; it takes names of hosts"),
    ],
)
def test_limits_are_checked(options, sentence):
    with pytest.raises(VertebraError, match=sentence):
        Limits(**options)


def until(condition):
    """Waits for what another thread does."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_an_explanation_that_is_no_longer_waited_for_ends(models, photo, monkeypatch):
    """Before its next forward pass, so that others do not wait for it."""
    passes = []

    def slow(task, images, score, **options):
        for number in range(1000):
            passes.append(number)
            time.sleep(0.05)
            score(images)

    monkeypatch.setattr(techniques()["occlusion"], "explain", slow)
    limits = Limits(timeout=3.0, latency_ms=0)
    with TestClient(create_app({"category": models["category"]}, limits)) as client:
        url = "/models/category/explain"
        assert detail(client.post(f"{url}?technique=occlusion", content=photo), 504)
        assert client.post(url, content=photo).status_code == 200
        assert 0 < len(passes) < 1000
        assert client.app.state.service.explaining == 0
