"""Films are read and written frame by frame."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra.errors import VertebraError
from vertebra.pictures import BrokenPicture
from vertebra.predict import video

av = pytest.importorskip("av")


@pytest.fixture
def film(tmp_path):
    """Twenty frames of 96 x 64 pixels, each brighter than the one before."""
    return write(tmp_path / "film.mp4")


def write(path, count=20, size=(96, 64), rate=10):
    with video.Writer(path, Fraction(rate)) as writer:
        for i in range(count):
            writer.add(Image.new("RGB", size, (10 * i,) * 3))
    return path


def test_a_film_comes_back(film):
    seen = video.look(film)
    assert (seen.rate, seen.frames, seen.seconds) == (10, 20, 2.0)
    numbers, pictures = zip(*video.frames(seen), strict=True)
    assert numbers == tuple(range(20))
    assert all(picture.shape == (3, 64, 96) and picture.dtype == torch.uint8 for picture in pictures)
    means = [float(picture.float().mean()) for picture in pictures]
    assert means == pytest.approx([10.0 * i for i in range(20)], abs=3)


def test_every_so_many_frames(film):
    assert [number for number, _ in video.frames(video.look(film), 7)] == [0, 7, 14]


def test_sides_are_made_even(tmp_path):
    path = write(tmp_path / "odd.mp4", size=(63, 41))
    assert next(video.frames(video.look(path)))[1].shape == (3, 42, 64)


def test_frames_are_brought_to_the_size_of_the_first(tmp_path):
    with video.Writer(tmp_path / "film.mp4", Fraction(5)) as writer:
        for size in ((96, 64), (48, 32)):
            writer.add(Image.new("RGB", size, (200, 200, 200)))
    pictures = [picture for _, picture in video.frames(video.look(tmp_path / "film.mp4"))]
    assert all(float(picture.float().mean()) == pytest.approx(200, abs=3) for picture in pictures)


def test_a_film_from_a_telephone_is_turned_upright(film):
    """The matrix in an MP4 file's track header says how the telephone was held: here a quarter turn clockwise."""

    def matrix(*values):
        return b"".join(int(value * 65536).to_bytes(4, "big", signed=True) for value in values[:-1]) + b"\x40\0\0\0"

    content = film.read_bytes()
    start = content.index(b"tkhd")
    place = content.index(matrix(1, 0, 0, 0, 1, 0, 0, 0, 1), start)
    turned = matrix(0, 1, 0, -1, 0, 0, 64, 0, 1)
    film.write_bytes(content[:place] + turned + content[place + len(turned) :])
    with av.open(str(film)) as container:
        raw = next(container.decode(video=0)).to_ndarray(format="rgb24")
    upright = next(video.frames(video.look(film)))[1]
    assert upright.shape == (3, 96, 64)
    assert np.array_equal(upright.permute(1, 2, 0).numpy(), np.rot90(raw, -1))


def broken(path, content):
    path.write_bytes(content)
    seen = []
    with pytest.raises(BrokenPicture) as error:
        seen.extend(number for number, _ in video.frames(video.look(path)))
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    return len(seen), str(error.value).removeprefix(f"{path}: ")


def test_files_that_are_no_films(tmp_path, film):
    path = tmp_path / "broken.mp4"
    assert broken(path, b"") == (0, "cannot be opened as a film (Invalid data found when processing input).")
    assert broken(path, b"Dear reader," * 50)[1].startswith("cannot be opened as a film")
    assert broken(path, film.read_bytes()[:200])[0] == 0


def test_a_damaged_film_is_good_until_there(tmp_path):
    path = noise(tmp_path / "noise.mp4")
    whole = path.read_bytes()
    middle = len(whole) // 2
    count, sentence = broken(path, whole[:middle] + bytes(3000) + whole[middle + 3000 :])
    assert 0 < count < 20
    assert sentence.startswith(f"cannot be decoded after {count} frames (")


@pytest.mark.parametrize(("name", "unit"), [("film.avi", "20 frames"), ("film.mkv", "2.0 seconds")])
def test_a_film_that_is_cut_short_says_so(tmp_path, name, unit):
    path = noise(tmp_path / name)
    whole = path.read_bytes()
    count, sentence = broken(path, whole[: len(whole) // 2])
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


def test_sound_alone_is_no_film(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(BrokenPicture, match=r"sound\.mp4: there are no pictures in this film\."):
        video.look(path)


def test_without_the_library(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VertebraError, match=r"pip install 'vertebra\[video\]'"):
        video.look(tmp_path / "film.mp4")


def test_frames_are_held_one_at_a_time(film):
    frames = video.frames(video.look(film))
    for _ in range(3):
        next(frames)
    frames.close()  # and the file with it
