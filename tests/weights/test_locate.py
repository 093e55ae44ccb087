"""Finding checkpoints: paths, the Hub and URLs, with stand-ins for their servers on this machine."""

import hashlib
import http.server
import socket
import threading
import time
from dataclasses import replace

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file

from vertebra import backbones, weights
from vertebra.cli import main
from vertebra.errors import VertebraError
from vertebra.weights import locate

CONTENT = b"weights " * 1000


class Server(http.server.BaseHTTPRequestHandler):
    """As much of the Hub, and of a server of files, as a download needs."""

    files: dict[str, bytes]
    problem: tuple[int, str] | None = None
    cut = False

    def do_HEAD(self):
        self.respond(body=False)

    def do_GET(self):
        self.respond(body=True)

    def respond(self, body):
        content = self.files.get(self.path.partition("?")[0])
        status, code = self.problem or ((404, "EntryNotFound") if content is None else (200, ""))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"0123456789abcdef"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if body and content and status == 200:
            self.wfile.write(content[: len(content) // 2] if self.cut else content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server that has CONTENT at /file.pth; `server.handler` has its settings."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = type("Handler", (Server,), {"files": {"/file.pth": CONTENT}})
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    served.handler, served.url = handler, f"http://127.0.0.1:{served.server_port}"
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


@pytest.fixture
def refusing():
    """The address of a port that refuses every connection."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{s.getsockname()[1]}"  # bound, and nobody listens


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Puts the Hub at another address, with an empty cache."""

    def place(url):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    return place


@pytest.fixture
def sentence(monkeypatch):
    """A function that returns the message of the error of a checkpoint, which comes without waiting for a retry."""

    def of(where, **options):
        monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waited {seconds} s to try again"))
        with pytest.raises(VertebraError) as caught:
            weights.open_checkpoint(where, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return of


@pytest.mark.parametrize(
    "where",
    [
        *(
            "runs/nope",
            "./nope",
            "../nope/best",
            "~/nope",
            "/nope/nope",
            "a/b/c",
            "nope.pth",
            "somebody/nope.safetensors",
        ),
        *("folder/nope", "folder/", "a\\b"),
    ],
)
def test_what_looks_like_a_path_is_never_looked_for_on_the_hub(where, tmp_path, monkeypatch, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(locate, "_from_hub", lambda *_: pytest.fail("the Hub was asked"))
    if where == "folder/":
        assert "holds no checkpoint" in sentence(where)
    else:
        assert "there is no such file or folder" in sentence(where)


def test_a_run_that_is_not_there_is_answered_by_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(locate, "_from_hub", lambda *_: pytest.fail("the Hub was asked"))
    (tmp_path / "runs" / "classification-resnet18-1").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save("image.png")
    assert main(["predict", "runs/classification-resnet18-2", "image.png"]) == 2
    assert "no such file or folder. Did you mean 'classification-resnet18-1'?" in capsys.readouterr().err


def test_a_hub_name_may_be_marked_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm").mkdir()
    names = []
    monkeypatch.setattr(locate, "_from_hub", lambda name, _: names.append(name) or tmp_path)
    locate.locate("hf-hub:timm/resnet18")
    locate.locate("somebody/resnet18.v1")
    assert names == ["timm/resnet18", "somebody/resnet18.v1"]


def test_hub_names_are_fetched_and_cached(tmp_path, hub, server, sentence):
    save_file({"a": torch.ones(1)}, tmp_path / "x")
    server.handler.files["/someone/model/resolve/main/model.safetensors"] = (tmp_path / "x").read_bytes()
    hub(server.url)
    assert weights.read("someone/model")[0]["a"] == 1
    server.handler.problem = (503, "")
    assert weights.read("someone/model")[0]["a"] == 1
    assert "the status 503: try again later" in sentence("someone/other")


def test_offline_is_called_so(hub, refusing, tmp_path, monkeypatch, sentence):
    hub(refusing)
    published = backbones.families()["resnet"].WEIGHTS
    for where in ("resnet50.a1_in1k", "timm/resnet50.a1_in1k", "somebody/something"):
        text = sentence(where, published=published)
        assert "this machine is offline" in text
        assert refusing in text
        assert str(tmp_path / "cache") in text
        assert "HF_HUB_OFFLINE=1" in text
        assert "Did you mean" not in text
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    text = sentence("resnet50.a1_in1k", published=published)
    assert "HF_HUB_OFFLINE is set" in text
    assert str(tmp_path / "cache") in text


def test_a_server_that_does_not_answer_is_given_up(hub, monkeypatch, sentence):
    monkeypatch.setattr(locate, "_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub(f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        assert "this machine is offline" in sentence("somebody/something")
        assert time.monotonic() - start < 2


def test_unknown_gated_and_closed_repositories_are_told_apart(hub, server, sentence):
    published = backbones.families()["resnet"].WEIGHTS
    hub(server.url)
    assert "holds none of best.safetensors" in sentence("timm/resnet50.a1_in1k", published=published)
    server.handler.problem = (404, "RepoNotFound")
    text = sentence("timm/resnet50.a1_in2k", published=published)
    assert "the Hub has no repository timm/resnet50.a1_in2k" in text
    assert "Did you mean 'timm/resnet50.a1_in1k'?" in text
    server.handler.problem = (403, "GatedRepo")
    assert f"accept its terms at {server.url}/some/body" in sentence("some/body")
    assert "cannot be the name of a Hub repository" in sentence("some/--body..")


def test_a_name_that_is_nothing_is_answered_with_the_nearest(sentence):
    text = sentence("resnet50.a1_in2k", published=backbones.families()["resnet"].WEIGHTS)
    assert "neither a published checkpoint, a file, a folder nor a Hub name" in text
    assert text.endswith("Did you mean 'resnet50.a1_in1k'?")


# -- URLs


@pytest.fixture
def card(server):
    digest = hashlib.sha256(CONTENT).hexdigest()
    return weights.Weights(
        url=f"{server.url}/file.pth", checksum=f"sha256:{digest[:8]}", source="torchvision", licence="mit", reference=""
    )


def test_a_url_is_downloaded_once_and_its_hash_checked(hub, server, card, tmp_path, sentence):
    path = locate.locate(card)
    assert path.read_bytes() == CONTENT
    server.handler.files.clear()
    assert locate.locate(card) == path
    path.write_bytes(b"damaged")
    assert "answers with the status 404" in sentence("x", published={"x": card})
    server.handler.files["/file.pth"] = CONTENT
    assert locate.locate(card).read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", ["sha256:" + "0" * 8, "sha256:" + "0" * 64, "md5:000000"])
def test_another_file_than_the_published_one_is_not_kept(hub, card, tmp_path, checksum, sentence):
    text = sentence("x", published={"x": replace(card, checksum=checksum)})
    algorithm, _, digits = checksum.partition(":")
    assert f"its {algorithm} does not begin with {digits}. Nothing was kept." in text
    assert not [path for path in (tmp_path / "torch").rglob("*") if path.is_file()]


def test_a_download_that_breaks_off_is_not_kept(hub, server, card, tmp_path, sentence):
    server.handler.cut = True
    assert "broke off" in sentence("x", published={"x": replace(card, checksum="")})
    assert not [path for path in (tmp_path / "torch").rglob("*") if path.is_file()]


def test_a_url_without_a_network(hub, refusing, card, tmp_path, sentence):
    text = sentence("x", published={"x": replace(card, url=f"{refusing}/file.pth")})
    assert "this machine is offline" in text
    assert "Download the file elsewhere and give its path" in text
