"""`vertebra serve`: names of models, mistakes, and a stop that answers what is in flight."""

import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch
import uvicorn

from vertebra.cli import main
from vertebra.cli import serve as command
from vertebra.errors import VertebraError
from vertebra.predict import Predictor
from vertebra.serve.explaining import ModelExplainer


def test_models_are_named_after_their_files():
    names = command._names(["runs/street-1", "runs/cats/best.safetensors", "models/dogs.safetensors", "runs/v1.5"])
    assert list(names) == ["street-1", "cats", "dogs", "v1.5"]
    with pytest.raises(VertebraError, match=r"a/x and b/x\.safetensors would both be called 'x'; rename"):
        command._names(["a/x", "b/x.safetensors"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["serve"], "vertebra serve needs MODELS"),
        (["serve", "x", "--max_batch=0"], "max_batch is 0"),
        (["serve", "x", "--port=70000"], "port is 70,000"),
        (["serve", "x", "--batch-size=3"], "Here it is --max_batch"),
        (["serve", "/nowhere/x"], "/nowhere/x"),
    ],
)
def test_mistakes_are_one_sentence(words, sentence, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_libraries_that_are_missing(monkeypatch, capsys):
    monkeypatch.setattr(command, "LIBRARIES", ("fastapi", "nothing_of_the_kind"))
    assert main(["serve", "x"]) == 2
    assert (
        "serving needs nothing_of_the_kind, which is not installed: pip install vertebra[serve]"
        in capsys.readouterr().err
    )


def test_an_empty_token_is_no_token(models, monkeypatch, capsys):
    monkeypatch.setattr("vertebra.predict.Predictor", lambda *_, **__: models["boxes"])
    monkeypatch.setenv("VERTEBRA_TOKEN", "")
    assert main(["serve", "x"]) == 2
    assert "VERTEBRA_TOKEN is set but empty" in capsys.readouterr().err


def test_a_port_that_is_taken(models, monkeypatch, capsys):
    monkeypatch.setattr("vertebra.predict.Predictor", lambda *_, **__: models["boxes"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "x", f"--port={taken.getsockname()[1]}"]) == 2
    assert "cannot listen on port" in capsys.readouterr().err


def test_any_engine_serves(models, monkeypatch, tmp_path):
    """And explains: that is computed by the checkpoint."""
    loaded = []

    def load(path, **options):
        loaded.append(Predictor(models["category"].checkpoint, **options))
        return loaded[-1]

    monkeypatch.setattr("vertebra.predict.Predictor", load)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    assert main(["serve", "x", "--port=0", "--device=cpu", "--engine=onnx"]) == 0
    assert loaded[0].engine == "onnx"
    image = torch.full((3, 32, 32), 100, dtype=torch.uint8)
    assert ModelExplainer(loaded[0]).explain(image, None, None).mode == "RGB"


class Kept(logging.Handler):
    """A handler of another library."""

    closed = False

    def close(self):
        self.closed = True


def test_stopping_answers_what_is_in_flight(models, photo, monkeypatch, capsys):
    kept = Kept()
    monkeypatch.setattr("vertebra.predict.Predictor", lambda *_, **__: models["boxes"])
    servers, entered, released = [], threading.Event(), threading.Event()

    class Server(uvicorn.Server):
        def __init__(self, config):
            super().__init__(config)
            servers.append(self)

    monkeypatch.setattr(uvicorn, "Server", Server)
    original = models["boxes"].predict

    def predict(sources, **options):
        if sources[0].name:  # not that of the start
            entered.set()
            assert released.wait(60)
        return original(sources, **options)

    monkeypatch.setattr(models["boxes"], "predict", predict)
    with ThreadPoolExecutor(2) as pool:
        ended = pool.submit(command.run, ["runs/boxes", "--port=0", "--allow_urls=a.org,b.org:8080"])
        end = time.monotonic() + 60
        while not (servers and servers[0].started):
            assert time.monotonic() < end
            time.sleep(0.01)
        try:
            assert servers[0].config.app.state.service.limits.allow_urls == ("a.org", "b.org:8080")
            address = capsys.readouterr().out.split(" at ")[1].split(";")[0]
            answer = pool.submit(httpx.post, f"{address}/predict", content=photo, timeout=60)
            assert entered.wait(60)
            servers[0].should_exit = True
            while listens(address):
                assert time.monotonic() < end
            assert not answer.done()
        finally:
            servers[0].should_exit = True
            released.set()
        assert len(answer.result().json()["objects"]) == 2
        ended.result()  # raises what the thread has raised
    assert not kept.closed


def listens(address):
    try:
        return httpx.get(f"{address}/health").is_success
    except httpx.TransportError:
        return False
