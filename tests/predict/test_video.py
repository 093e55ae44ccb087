"""Videos are read and written frame by frame."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra.errors import VertebraError
from vertebra.images import UnreadableImage
from vertebra.predict.video import VideoWriter, open_video

av = pytest.importorskip("av")


@pytest.fixture
def video_file(tmp_path):
    """Twenty frames of 96 x 64 pixels, each brighter than the one before."""
    return write(tmp_path / "video.mp4")


def frames(path, every=1):
    with open_video(path) as video:
        yield from video.read(every)


def write(path, count=20, size=(96, 64), rate=10):
    with VideoWriter(path, Fraction(rate)) as writer:
        for i in range(count):
            writer.add(Image.new("RGB", size, (10 * i,) * 3))
    return path


def test_a_video_comes_back(video_file):
    with open_video(video_file) as video:
        assert (video.rate, video.frames, video.seconds) == (10, 20, 2.0)
        numbers, images = zip(*video.read(), strict=True)
    assert numbers == tuple(range(20))
    assert all(image.shape == (3, 64, 96) and image.dtype == torch.uint8 for image in images)
    means = [float(image.float().mean()) for image in images]
    assert means == pytest.approx([10.0 * i for i in range(20)], abs=3)


def test_every_so_many_frames(video_file):
    assert [number for number, _ in frames(video_file, 7)] == [0, 7, 14]


def test_sides_are_made_even(tmp_path):
    path = write(tmp_path / "odd.mp4", size=(63, 41))
    assert next(frames(path))[1].shape == (3, 42, 64)


def test_frames_are_brought_to_the_size_of_the_first(tmp_path):
    with VideoWriter(tmp_path / "video.mp4", Fraction(5)) as writer:
        for size in ((96, 64), (48, 32)):
            writer.add(Image.new("RGB", size, (200, 200, 200)))
    images = [image for _, image in frames(tmp_path / "video.mp4")]
    assert all(float(image.float().mean()) == pytest.approx(200, abs=3) for image in images)


def test_a_video_from_a_phone_is_turned_upright(video_file):
    """The matrix in an MP4 file's track header says how the phone was held: here a quarter turn clockwise."""

    def matrix(*values):
        return b"".join(int(value * 65536).to_bytes(4, "big", signed=True) for value in values[:-1]) + b"\x40\0\0\0"

    content = video_file.read_bytes()
    start = content.index(b"tkhd")
    place = content.index(matrix(1, 0, 0, 0, 1, 0, 0, 0, 1), start)
    turned = matrix(0, 1, 0, -1, 0, 0, 64, 0, 1)
    video_file.write_bytes(content[:place] + turned + content[place + len(turned) :])
    with av.open(str(video_file)) as container:
        raw = next(container.decode(video=0)).to_ndarray(format="rgb24")
    upright = next(frames(video_file))[1]
    assert upright.shape == (3, 96, 64)
    assert np.array_equal(upright.permute(1, 2, 0).numpy(), np.rot90(raw, -1))


def read_until_error(path, content):
    path.write_bytes(content)
    numbers = []
    with pytest.raises(UnreadableImage) as error:
        numbers.extend(number for number, _ in frames(path))
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    return len(numbers), str(error.value).removeprefix(f"{path}: ")


def test_files_that_are_not_videos(tmp_path, video_file):
    path = tmp_path / "damaged.mp4"
    assert read_until_error(path, b"") == (0, "cannot be opened as a video (Invalid data found when processing input).")
    assert read_until_error(path, b"Dear reader," * 50)[1].startswith("cannot be opened as a video")
    assert read_until_error(path, video_file.read_bytes()[:200])[0] == 0


def test_a_damaged_video_is_good_until_there(tmp_path):
    path = noise(tmp_path / "noise.mp4")
    whole = path.read_bytes()
    middle = len(whole) // 2
    count, sentence = read_until_error(path, whole[:middle] + bytes(3000) + whole[middle + 3000 :])
    assert 0 < count < 20
    assert sentence.startswith(f"cannot be decoded after {count} frames (")


@pytest.mark.parametrize(("name", "unit"), [("video.avi", "20 frames"), ("video.mkv", "2.0 seconds")])
def test_a_video_that_is_cut_short(tmp_path, name, unit):
    path = noise(tmp_path / name)
    whole = path.read_bytes()
    count, sentence = read_until_error(path, whole[: len(whole) // 2])
    assert 0 < count < 20
    assert sentence.startswith("is cut short after ")
    assert sentence.endswith(f" of {unit}.")


def noise(path, count=20):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_sound_alone_is_not_a_video(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UnreadableImage, match=r"sound\.mp4: there is no video stream in this file\."):
        next(frames(path))


def test_without_the_library(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VertebraError, match=r"pip install 'vertebra\[video\]'"):
        next(frames(tmp_path / "video.mp4"))


def test_frames_are_held_one_at_a_time(video_file):
    stream = frames(video_file)
    for _ in range(3):
        next(stream)
    stream.close()  # and the file with it
