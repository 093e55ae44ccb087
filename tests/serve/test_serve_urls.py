"""Images from URLs: allowed hosts alone, public addresses alone, no redirections."""

import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from fastapi.testclient import TestClient

from vertebra.serve import urls
from vertebra.serve.app import create_app
from vertebra.serve.limits import Limits


class Handler(BaseHTTPRequestHandler):
    photo = b""

    def do_GET(self):
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", "/photo.png")
            self.end_headers()
        elif self.path == "/missing.png":
            self.send_error(404)
        elif self.path == "/dripping.png":
            with suppress(OSError):
                self.wfile.write(b"HTTP/1.0 200 OK\r\n")
                for i in range(40):
                    self.wfile.write(f"X-{i}: 0\r\n".encode())
                    time.sleep(0.05)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.photo if self.path.startswith("/photo.png") else b"\0" * 100_000)

    def log_message(self, *_):
        pass


@pytest.fixture
def host(photo):
    """A web server on this machine."""
    Handler.photo = photo
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def local_is_public(monkeypatch):
    monkeypatch.setattr(urls, "is_public", lambda address: True)


def download(url, *allowed, max_bytes=50_000, timeout=10):
    return urls.download(url, allowed, max_bytes=max_bytes, timeout=timeout)


def test_an_image_of_an_allowed_host(models, photo, host, local_is_public):
    with TestClient(create_app({"boxes": models["boxes"]}, Limits(allow_urls=(host.upper(),)))) as client:
        answer = client.post("/predict", json={"url": f"http://{host}/photo.png?a=b#c"})
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["objects"]) == 2
        assert answer.json()["path"] == f"http://{host}/photo.png?a=b#c"
        refused = client.post("/predict", json={"url": "http://example.org/photo.png"})
        assert refused.status_code == 400
        assert refused.json()["detail"].startswith("images of the host 'example.org' are not downloaded")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/away", "answers 302, a redirection, which is not followed"),
        ("/missing.png", "answers 404"),
        ("/large.png", "has more than 50,000 bytes"),
        ("/with space", "cannot be reached"),
    ],
)
def test_what_cannot_be_downloaded(host, local_is_public, path, sentence):
    with pytest.raises(urls.RefusedURL, match=sentence):
        download(f"http://{host}{path}", host)


def test_headers_that_drip_are_not_waited_for(host, local_is_public):
    with pytest.raises(urls.RefusedURL, match=r"takes more than 0\.2 seconds to download"):
        download(f"http://{host}/dripping.png", host, timeout=0.2)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.org/a.png",
        "//example.org/a.png",
        "http://user:secret@example.org/a.png",
        "http://example.org@evil.org/a.png",
        "http://example.org:99999/a.png",
        "http://[::1/a.png",
        "http://",
        "",
        "http://example.org/a\r\nHost: x",
        "http://ex\u00e4mple.org/",
    ],
)
def test_urls_that_are_none(url):
    with pytest.raises(urls.RefusedURL) as error:
        download(url, "example.org")
    assert "secret" not in str(error.value).replace(repr(url), "")


@pytest.mark.parametrize(
    "url",
    ["http://example.org.evil.org/", "http://evil.org/example.org", "http://example.org:8080/", "http://127.0.0.1/"],
)
def test_hosts_that_are_not_allowed(url):
    with pytest.raises(urls.RefusedURL, match="the operator has not allowed it"):
        download(url, "example.org")


def test_the_usual_port_may_be_named():
    for url in ("https://example.org/a.png", "https://example.org:443/a.png"):
        for allowed in ("example.org", "example.org:443"):
            assert urls._checked(url, [allowed])[1:] == ("example.org", 443)


def test_private_addresses_are_refused_whatever_their_name(host):
    with pytest.raises(urls.RefusedURL, match="private network"):
        download(f"http://{host}/photo.png", host)


def test_no_address_of_several_may_be_private(monkeypatch):
    entries = [(0, 0, 0, "", (address, 80)) for address in ("93.184.215.14", "10.0.0.1")]
    monkeypatch.setattr(urls.socket, "getaddrinfo", lambda *_, **__: entries)
    with pytest.raises(urls.RefusedURL, match="private network"):
        download("http://example.org/a.png", "example.org")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b:1::7f00:1", False),
        ("::127.0.0.1", False),
        ("::ffff:0:127.0.0.1", False),
        ("fec0::1", False),
    ],
)
def test_public_addresses(address, public):
    assert urls.is_public(address) == public
