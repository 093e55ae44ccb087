"""Where images come from: files, lists, standard input, URLs, cameras and streams."""

import io
import os
import sys
import threading
import time
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image

from vertebra.errors import VertebraError
from vertebra.images import UnreadableImage
from vertebra.predict import sources, video
from vertebra.predict.folder import _stem
from vertebra.predict.sources import cameras, stdin, streams, urls

av = pytest.importorskip("av")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """a.png, sub/b.png and video.mp4 of five frames, each of another brightness; the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (40, 30), (90, 90, 90)).save(tmp_path / "a.png")
    Image.new("RGB", (40, 30), (60, 60, 60)).save(tmp_path / "sub" / "b.png")
    with video.VideoWriter(tmp_path / "video.mp4", Fraction(10)) as writer:
        for i in range(5):
            writer.add(Image.new("RGB", (64, 48), (40 * i,) * 3))
    return tmp_path


def names(word, **options):
    return [source.name for source in sources.expand(word, **options)]


def test_every_source_is_documented():
    """A module is a source because it is there."""
    for module in sources.modules():
        assert module.__doc__
        assert module.DESCRIPTION
        assert isinstance(module.IN_LISTS, bool)
    assert [module.__name__.rpartition(".")[2] for module in sources.modules()][-1] == "files"  # recognises all words


def test_files_folders_and_patterns(folder):
    assert names("a.png") == names(Path("a.png")) == ["a.png"]
    assert names(str(folder)) == [str(folder / name) for name in ("a.png", "sub/b.png", "video.mp4")]
    assert names("**/*.png") == ["a.png", "sub/b.png"]
    kinds = [type(source) for source in sources.expand(str(folder))]
    assert kinds == [sources.ImageSource, sources.ImageSource, sources.VideoSource]


def test_what_is_no_source(folder):
    with pytest.raises(UnreadableImage, match=r"nope\.jpg is neither a file, a folder .* a camera's index such as 0"):
        names("nope.jpg")
    (folder / "empty").mkdir()
    with pytest.raises(VertebraError, match="empty holds no images"):
        names("empty")


def test_a_list(folder):
    """Paths are relative to the current folder, or else to the list's. Lists in lists and cameras are not followed."""
    (folder / "sub" / "list.txt").write_text("a.png\n\n b.png \nhttps://host/c.jpg\nsub/list.txt\n0\n-\nmissing.png\n")
    listed = names("sub/list.txt")
    assert listed == ["a.png", "sub/b.png", "https://host/c.jpg", "sub/list.txt", "0", "-", "missing.png"]
    with pytest.raises(UnreadableImage, match=r"missing\.png: there is no such file"):
        list(sources.expand("sub/list.txt"))[-1].read(3)


@pytest.fixture
def standard_input(monkeypatch):
    def give(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return give


def test_standard_input_is_an_image_or_a_list(folder, standard_input):
    standard_input((folder / "a.png").read_bytes())
    (source,) = sources.expand("-")
    assert source.name == "stdin"
    assert source.read(3).shape == (3, 30, 40)
    assert "bytes" in repr(source)
    standard_input(b"a.png\nsub/b.png\n")
    assert names("-") == ["a.png", "sub/b.png"]
    standard_input(os.fsencode("caf\udce9.png"))
    assert names("-") == ["caf\udce9.png"]


def test_standard_input_within_bounds(standard_input, monkeypatch):
    standard_input(b"\n")
    with pytest.raises(VertebraError, match="standard input is empty"):
        names("-")
    monkeypatch.setattr(stdin, "MAX_BYTES", 10)
    standard_input(b"x" * 11)
    with pytest.raises(VertebraError, match="standard input has more than 10 bytes"):
        names("-")
    standard_input(b"\0" * 9)
    (source,) = sources.expand("-")
    with pytest.raises(UnreadableImage, match=r"^stdin: not an image in any known format"):
        source.read(3)


# -- the web


@pytest.fixture
def server(folder):
    """Serves images, an MJPEG stream, and whatever goes wrong; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.partition("?")[0][1:]
            if name == "live":
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                buffer = io.BytesIO()
                Image.new("RGB", (64, 48), (200, 0, 0)).save(buffer, "JPEG")
                try:
                    for _ in range(500):
                        part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"
                        self.wfile.write(part % (len(buffer.getvalue()), buffer.getvalue()))
                        time.sleep(0.01)
                except OSError:
                    pass  # the reader has gone
            elif name == "private":
                self.send_error(403)
            elif name == "slow.png":
                server.release.wait(5)
            elif name == "files.png":
                self.send_response(302)
                self.send_header("Location", "file:///etc/passwd")
                self.end_headers()
            elif (folder / name).is_file():
                kind = {"a.png": "image/png", "video.mp4": "video/mp4"}[name]
                self.send(kind, (folder / name).read_bytes())
            elif name == "untitled":
                self.send("image/png", (folder / "a.png").read_bytes())
            elif name == "page":
                self.send("text/html", b"<html>")
            else:
                self.send_error(404)

        def send(self, kind, content):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.release = threading.Event()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.release.set()
    server.shutdown()
    server.server_close()


def test_images_of_the_web(server):
    for path in ("a.png", "a.png?size=large", "untitled"):
        (source,) = sources.expand(f"{server}/{path}")
        fetched = source.fetch()
        assert fetched.name == f"{server}/{path}"
        assert fetched.read(3).float().mean() == 90


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("gone.png", r"gone\.png: the server answers 404 \(Not Found\)\.$"),
        ("gone", r"gone: the server answers 404"),
        ("private", r"private: the server answers 403 \(Forbidden\): it is private, or needs a password\.$"),
        ("page", r"page: this is no image, but text/html\.$"),
        ("files.png", r"files\.png: the server answers 302 \(.* not allowed\)"),
    ],
)
def test_what_the_web_does_not_have(server, path, sentence):
    (source,) = sources.expand(f"{server}/{path}")
    with pytest.raises(UnreadableImage, match=sentence) as error:
        source.fetch()
    assert "\n" not in str(error.value)


def test_a_download_has_bounds(server, monkeypatch):
    (source,) = sources.expand(f"{server}/a.png")
    monkeypatch.setattr(urls, "MAX_BYTES", 10)
    with pytest.raises(UnreadableImage, match=r"a\.png: has more than 10 bytes"):
        source.fetch()
    monkeypatch.setattr(urls, "SECONDS", 0.1)
    (source,) = sources.expand(f"{server}/slow.png")
    with pytest.raises(UnreadableImage, match=r"slow\.png: no answer within 0\.1 seconds"):
        source.fetch()


def test_a_machine_that_is_offline():
    (source,) = sources.expand("http://host.invalid/a.png")
    with pytest.raises(UnreadableImage, match=r"^http://host\.invalid/a\.png: cannot be reached \(.*offline\?"):
        source.fetch()


@pytest.mark.parametrize("url", ["http://[", "http://", "https://host:port/a.png", "http://a b/c.png"])
def test_addresses_that_are_none(url):
    (source,) = sources.expand(url)
    with pytest.raises(UnreadableImage) as error:
        source.fetch()
    assert "\n" not in str(error.value)


def test_the_name_of_a_drawing():
    expected = {"http://host/a.jpg?size=2": "a", "rtsp://host:554": "host_554", "rtsp://host/": "host"}
    assert [_stem(next(sources.expand(word))) for word in expected] == list(expected.values())
    assert _stem(sources.ImageSource("in/b.c.png", Path("in/b.c.png"))) == "b.c"


def test_passwords_are_not_printed():
    (source,) = sources.expand("rtsp://user:secret@host:554/live?channel=1")
    assert source.name == "rtsp://host:554/live?channel=1"
    assert source.address == "rtsp://user:secret@host:554/live?channel=1"
    assert names("https://user:secret@host/a@b.png") == ["https://host/a@b.png"]


def test_a_video_of_the_web(server):
    (source,) = sources.expand(f"{server}/video.mp4")
    assert not source.live
    frames = [(frame.name, pixels) for frame, pixels in source.frames(2)]
    assert [name for name, _ in frames] == [f"{server}/video.mp4#{i}" for i in (0, 2, 4)]
    assert [float(pixels.float().mean()) for _, pixels in frames] == pytest.approx([0, 80, 160], abs=4)


def test_a_stream_has_no_end(server, make_detector):
    (source,) = sources.expand(f"{server}/live")
    assert source.live
    detector = make_detector()
    with pytest.raises(VertebraError, match=r"live has no end: use `stream`"):
        detector.predict(source)
    results = detector.stream(f"{server}/live", batch_size=16)
    taken = [next(results) for _ in range(3)]
    indices = [int(result.path.rpartition("#")[2]) for result in taken]
    assert indices == sorted(set(indices))
    assert taken[-1].plot().size == (256, 192)
    results.close()
    with pytest.raises(VertebraError, match="this frame is no longer in memory"):
        taken[0].plot()


def test_streams_are_read_through_pyav():
    for word in ("rtsp://host/live", "rtmp://host/live", "udp://@239.0.0.1:1234", "srt://host:1"):
        assert streams.recognise(word)
        (source,) = sources.expand(word)
        assert source.live
    with pytest.raises(UnreadableImage, match=r"rtsp://127\.0\.0\.1:1/live: cannot be opened as a video \(Connection"):
        next(next(sources.expand("rtsp://127.0.0.1:1/live")).frames())


def test_of_a_fast_stream_the_newest_frame_is_taken():
    """Reading goes on while a frame is processed."""
    first, last = threading.Event(), threading.Event()

    def frames():
        for i in range(100):
            yield i, torch.zeros(1)
            first.wait(5)
        last.set()

    newest = sources._newest(frames())
    assert next(newest)[0] == 0
    first.set()
    assert last.wait(5)
    index, _ = next(newest)
    assert index == 99
    assert list(newest) == []


def test_a_stream_that_breaks_off():
    def frames():
        yield 0, torch.zeros(1)
        raise UnreadableImage("host: cannot be decoded after 1 frames.")

    with pytest.raises(UnreadableImage, match="after 1 frames"):
        list(sources._newest(frames()))


# -- cameras


def test_a_camera_that_is_not_there(monkeypatch):
    monkeypatch.setattr(cameras, "DEVICES", {sys.platform: ("v4l2", "/dev/no_such_video{}")})
    for word in ("7", 7):
        with pytest.raises(VertebraError, match=r"camera 7: there is no /dev/no_such_video7 on this machine\."):
            names(word)
    monkeypatch.setattr(cameras, "DEVICES", {})
    with pytest.raises(VertebraError, match="cameras are read on Linux and macOS"):
        names("0")


def test_a_camera(monkeypatch, make_detector):
    """FFmpeg's test image stands in for one."""
    monkeypatch.setattr(cameras, "DEVICES", {sys.platform: ("lavfi", "testsrc=size=64x48:rate=25")})
    (source,) = sources.expand("0")
    assert (source.name, source.live) == ("camera-0", True)
    frame, pixels = next(source.frames())
    assert pixels.shape == (3, 48, 64)
    assert frame.name.startswith("camera-0#")
    monkeypatch.setattr(cameras, "DEVICES", {sys.platform: ("no_such_format", "{}")})
    with pytest.raises(VertebraError, match="this build of PyAV does not read cameras"):
        names("0")


def test_a_file_named_like_a_camera(folder):
    (folder / "a.png").rename(folder / "0")
    assert names("0") == ["0"]
    assert isinstance(next(sources.expand("0")), sources.ImageSource)


# -- in Python


def test_the_predictor_takes_sources(make_detector, folder):
    detector = make_detector()
    paths = [prediction.path for prediction in detector.predict(str(folder), every=2)]
    expected = ["a.png", "sub/b.png", *(f"video.mp4#{i}" for i in (0, 2, 4))]
    assert paths == [str(folder / name) for name in expected]
    assert [result.path for result in detector.stream(["sub", folder / "a.png"])] == [
        "sub/b.png",
        str(folder / "a.png"),
    ]


def test_a_damaged_video_does_not_end_the_stream(make_detector, folder):
    (folder / "sub" / "a.mp4").write_bytes(b"Dear reader," * 50)
    found = [type(item).__name__ for item in make_detector().stream(["sub", "nope.jpg", "a.png"])]
    assert found == ["UnreadableImage", "ImageResult", "UnreadableImage", "ImageResult"]


def test_a_frame_of_a_file_is_read_again(make_detector, folder):
    results = make_detector().predict("video.mp4")
    assert results[3].image.float().mean() == pytest.approx(120, abs=4)
    assert results[3].plot().size == (256, 192)
