"""Reading images of every form, valid and damaged."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from vertebra.errors import VertebraError
from vertebra.images import (
    ADAM7,
    MAX_PIXELS,
    UnreadableImage,
    as_list,
    find_images,
    image_size,
    normalise,
    prepare,
    prepare_all,
    read_image,
    resample,
    resize_image,
)
from vertebra.structures import Preprocess

WIDE = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)  # [2, 3]
HIGH = [[0, 0, 1], [128, 255, 255]]  # the upper eight bits of WIDE


def colours() -> np.ndarray:
    """[4, 6, 3] uint8: four rows of one colour each, so that a turned image shows which way it was turned."""
    rows = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250], [250, 250, 10]], np.uint8)
    return np.repeat(rows[:, None], 6, axis=1)


def png(width: int, height: int, *, bits: int = 8, colour: int = 0, rows: bytes = b"") -> bytes:
    """A PNG file by hand, so that its header may claim what its data do not hold."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# -- valid images of every form


def test_rgb(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.png")
    result = read_image(tmp_path / "a.png")
    assert result.dtype == torch.uint8
    assert result.is_contiguous()
    assert np.array_equal(result.permute(1, 2, 0), colours())
    assert torch.equal(read_image(str(tmp_path / "a.png")), result)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_keep_their_upper_eight(tmp_path, suffix):
    Image.fromarray(WIDE).save(tmp_path / f"wide{suffix}")
    for channels in (1, 3):
        assert read_image(tmp_path / f"wide{suffix}", channels).tolist() == [HIGH] * channels


def test_sixteen_bits_per_colour(tmp_path):
    pixels = np.stack([WIDE, WIDE[::-1], WIDE[:, ::-1]], -1).astype(">u2")  # [2, 3, 3]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # 0: the filter that changes nothing
    (tmp_path / "wide.png").write_bytes(png(3, 2, bits=16, colour=2, rows=rows))
    assert np.array_equal(read_image(tmp_path / "wide.png").permute(1, 2, 0), pixels >> 8)


def test_big_endian_sixteen_bits():
    image = Image.frombytes("I;16B", (3, 2), WIDE.astype(">u2").tobytes())
    assert read_image(image, 1).tolist() == [HIGH]


def test_more_than_sixteen_bits_and_floats_are_refused(tmp_path):
    Image.fromarray(np.full((2, 2), 70000, np.int32)).save(tmp_path / "deep.tif")
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UnreadableImage, match=r"deep\.tif: holds values beyond 16 bits; convert"):
        read_image(tmp_path / "deep.tif")
    with pytest.raises(UnreadableImage, match=r"float\.tif: holds floating-point values; convert"):
        read_image(tmp_path / "float.tif")


def test_cmyk(tmp_path):
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red.save(tmp_path / "red.jpg", quality=100)
    r, g, b = read_image(tmp_path / "red.jpg")[:, 4, 4].tolist()
    assert r > 245
    assert max(g, b) < 10


@pytest.mark.parametrize("transparency", [None, 0])
def test_palette(tmp_path, transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 100, 50, 1, 2, 3])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", **({} if transparency is None else {"transparency": transparency}))
    assert read_image(tmp_path / "a.png")[:, 0].T.tolist() == [[200, 100, 50], [1, 2, 3]]


def test_black_and_white(tmp_path):
    Image.new("1", (2, 2), 1).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").unique().tolist() == [255]


@pytest.mark.parametrize(
    ("tag", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).swapaxes(0, 1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_exif_rotation(tmp_path, tag, turn):
    stored = colours()
    stored[:, 0] = 128  # a mark at the left edge
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png").permute(1, 2, 0), turn(stored))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("turn", [1, 3, 6])
def test_a_turned_image_is_measured_as_it_is_read(tmp_path, suffix, turn):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (8, 6)).save(path, exif=exif)
    assert image_size(path) == tuple(read_image(path).shape[1:]) == ((8, 6) if turn == 6 else (6, 8))


def test_a_damaged_exif_block_is_explained(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0")
    with pytest.raises(UnreadableImage, match=r"a\.png: cannot be decoded \("):
        image_size(tmp_path / "a.png")


def test_grey(tmp_path):
    Image.fromarray(np.array([[0, 128, 255]], np.uint8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 1).tolist() == [[[0, 128, 255]]]
    assert read_image(tmp_path / "a.png", 3).tolist() == [[[0, 128, 255]]] * 3


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_dropped(tmp_path, mode):
    value = (10, 20, 30, 0) if mode == "RGBA" else (10, 0)
    Image.new(mode, (2, 2), value).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[:, 0, 0].tolist() == ([10, 20, 30] if mode == "RGBA" else [10] * 3)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("white", "black")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif").min() == 255


def test_other_sources():
    array = colours()
    expected = torch.from_numpy(array).permute(2, 0, 1)
    sources = {
        "PIL": Image.fromarray(array),
        "array": array,
        "tensor": expected,
        "reversed view": array[::-1].copy()[::-1],
        "floats": expected / 255,
        "16 bits": (expected.to(torch.int32) * 257).to(torch.uint16),
        "alpha": np.concatenate([array, array[..., :1]], -1),
    }
    for name, source in sources.items():
        assert torch.equal(read_image(source), expected), name
    assert torch.equal(read_image(array[..., 0]), expected[:1].expand(3, -1, -1))
    assert read_image(torch.zeros(5, 2, 2, dtype=torch.uint8), 5).shape == (5, 2, 2)


def test_colour_becomes_grey_as_from_a_file():
    array = colours()
    from_file = read_image(Image.fromarray(array), 1).int()
    for source in (array, torch.from_numpy(array).permute(2, 0, 1) / 255):
        assert (read_image(source, 1).int() - from_file).abs().max() <= 1


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (np.zeros((2, 2, 2, 2), np.uint8), r"\[H, W\] or \[H, W, C\]; this one is \[2, 2, 2, 2\]"),
        (torch.zeros(4, 4), r"is \[C, H, W\] with pixels in it; this one is \[4, 4\]"),
        (torch.zeros(3, 0, 4), r"with pixels in it"),
        (torch.zeros(2, 4, 4), r"takes 3 channels, the image has 2"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), r"uint8, uint16 or floats in 0\.\.1, not torch\.int64"),
        (torch.full((3, 4, 4), 255.0), r"values in 0\.\.1; this one's go from 255 to 255"),
        (torch.full((3, 4, 4), float("nan")), r"values in 0\.\.1"),
        (17, r"path, PIL image, array or tensor, not int"),
    ],
)
def test_invalid_sources_are_explained(source, sentence):
    with pytest.raises(VertebraError, match=sentence):
        read_image(source)


def test_a_file_has_one_or_three_channels(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(VertebraError, match="1 or 3 channels, not 5"):
        read_image(tmp_path / "a.png", 5)


# -- damaged images


def encoded(kind: str, **options) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    Image.fromarray(noise).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_truncated(tmp_path, kind):
    whole = encoded(kind)
    path = tmp_path / "half.jpg"
    for share in (0.02, 0.5, 0.9):
        path.write_bytes(whole[: round(len(whole) * share)])
        with pytest.raises(UnreadableImage, match=r"half\.jpg: "):
            read_image(path)


def test_zero_bytes(tmp_path):
    (tmp_path / "nothing.jpg").touch()
    with pytest.raises(UnreadableImage, match=r"nothing\.jpg: the file is empty \(0 bytes\)"):
        read_image(tmp_path / "nothing.jpg")


def test_only_zeros_inside(tmp_path):
    (tmp_path / "zeros.png").write_bytes(bytes(4096))
    with pytest.raises(UnreadableImage, match=r"zeros\.png: not an image in any known format"):
        read_image(tmp_path / "zeros.png")


def test_no_pixels(tmp_path):
    (tmp_path / "flat.png").write_bytes(png(0, 5))
    with pytest.raises(UnreadableImage, match=r"flat\.png: "):
        read_image(tmp_path / "flat.png")
    with pytest.raises(VertebraError):
        read_image(np.zeros((0, 5, 3), np.uint8))


def test_text_by_the_name_of_an_image(tmp_path):
    (tmp_path / "letter.jpg").write_text("Dear reader,\n" * 50)
    with pytest.raises(UnreadableImage, match=r"letter\.jpg: not an image in any known format, whatever its name"):
        read_image(tmp_path / "letter.jpg")


def test_a_missing_file_is_unreadable(tmp_path):
    """One that is deleted while a run goes on must not end it."""
    with pytest.raises(UnreadableImage, match=r"gone\.jpg: there is no such file"):
        read_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (13_400, 13_400)])
def test_decompression_bomb(tmp_path, width, height):
    assert width * height > MAX_PIXELS
    (tmp_path / "bomb.png").write_bytes(png(width, height, rows=bytes(1000)))
    with pytest.raises(UnreadableImage, match=r"bomb\.png: .*more than 178,956,970 pixels"):
        read_image(tmp_path / "bomb.png")


def with_tags(path, tags):
    """A TIFF whose entries for these tags have another tag, type and value."""
    content = bytearray(encoded("TIFF"))
    start = int.from_bytes(content[4:8], "little")
    for i in range(int.from_bytes(content[start : start + 2], "little")):
        place = start + 2 + 12 * i
        if (tag := int.from_bytes(content[place : place + 2], "little")) in tags:
            new, kind, value = tags[tag]
            content[place : place + 2] = new.to_bytes(2, "little")
            content[place + 2 : place + 4] = kind.to_bytes(2, "little")
            content[place + 8 : place + 12] = value.to_bytes(4, "little")
    path.write_bytes(bytes(content))


def test_a_tag_of_another_type_is_damage(tmp_path):
    with_tags(tmp_path / "a.tiff", {273: (273, 11, 8)})  # the offsets of strips as floats
    for read in (read_image, image_size):
        with contextlib.suppress(UnreadableImage):
            read(tmp_path / "a.tiff")
    with pytest.raises(UnreadableImage, match=r"a\.tiff: cannot be decoded"):
        read_image(tmp_path / "a.tiff")


def test_scans_without_end(tmp_path):
    whole = encoded("JPEG", progressive=True)
    start = whole.rindex(b"\xff\xda")
    scan, end = whole[start:-2], whole[-2:]
    (tmp_path / "a.jpg").write_bytes(whole)
    assert read_image(tmp_path / "a.jpg").shape == (3, 24, 20)
    (tmp_path / "a.jpg").write_bytes(whole[:-2] + scan * 200 + end)
    with pytest.raises(UnreadableImage, match=r"a\.jpg: has 2\d\d scans, more than 100"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImage, match=r"has 2\d\d scans"), Image.open(tmp_path / "a.jpg") as image:
        read_image(image)
    assert image_size(tmp_path / "a.jpg") == (24, 20)  # which needs no scan
    (tmp_path / "b.jpg").write_bytes(whole)
    with Image.open(tmp_path / "b.jpg") as image:
        image.load()
        assert read_image(image).shape == (3, 24, 20)


def test_tiles_that_are_larger_than_their_image(tmp_path):
    with_tags(tmp_path / "a.tiff", {})
    assert read_image(tmp_path / "a.tiff").shape == (3, 24, 20)
    with_tags(tmp_path / "bomb.tiff", {278: (322, 3, 16384), 284: (323, 3, 32768)})
    for read in (read_image, image_size):
        with pytest.raises(UnreadableImage, match=r"bomb\.tiff: has tiles of 16384 x 32768 pixels, more than"):
            read(tmp_path / "bomb.tiff")


def test_the_limit_does_not_depend_on_pillows(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000))
    with pytest.raises(UnreadableImage, match="60000 x 60000 is more than"):
        read_image(tmp_path / "bomb.png")


def test_random_damage_never_gives_another_error(tmp_path):
    path = tmp_path / "damaged"
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP"):
        whole = encoded(kind, **({"exif": exif} if kind in ("JPEG", "PNG") else {}))
        for _ in range(60):
            content = np.frombuffer(whole, np.uint8).copy()
            places = random.integers(0, min(len(content), 300), 4)
            content[places] = random.integers(0, 256, 4)
            path.write_bytes(content.tobytes())
            with contextlib.suppress(UnreadableImage):
                assert read_image(path).ndim == 3


# -- finding


def test_find(tmp_path):
    names = ["b.PNG", "a.jpg", "deep/er/c.tif", "notes.txt", ".hidden.jpg", ".cache/d.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert [str(p.relative_to(tmp_path)) for p in find_images(tmp_path)] == ["a.jpg", "b.PNG", "deep/er/c.tif"]


def test_find_below_a_hidden_folder(tmp_path):
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "a.jpg").touch()
    assert len(find_images(tmp_path / ".data")) == 1


def test_as_list():
    image = torch.zeros(3, 4, 4)
    assert len(as_list(image)) == 1
    assert len(as_list(image.expand(5, -1, -1, -1))) == 5
    assert as_list(["a", "b"]) == ["a", "b"]
    assert as_list("a.jpg") == ["a.jpg"]


# -- preparing


def test_resize_keeps_the_centre():
    image = torch.zeros(3, 20, 40, dtype=torch.uint8)
    image[..., 10:30] = 200  # the middle square
    result = resize_image(image, Preprocess(size=(20, 20)))
    assert result.shape == (3, 20, 20)
    assert result.min() == 200
    squashed = resize_image(image, Preprocess(size=(20, 20), resize="squash"))
    assert squashed.shape == (3, 20, 20)
    assert squashed[0, 0, 0] == 0


def test_resize_crops_by_the_share():
    """crop = 0.5 scales the short side to twice the input, and keeps the middle."""
    image = torch.zeros(1, 40, 40, dtype=torch.uint8)
    image[..., 10:30, 10:30] = 200
    result = resize_image(image, Preprocess(size=(20, 20), crop=0.5, mean=(0.0,), std=(1.0,)))
    assert result.min() == 200


def test_any_size_gives_the_input_size():
    for height, width in ((1, 1), (1, 64), (64, 1), (7, 13), (33, 32)):
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        for crop in (1.0, 0.875):
            assert resize_image(image, Preprocess(size=(32, 24), crop=crop)).shape == (3, 32, 24)


def test_a_long_strip_is_not_scaled_to_gigabytes():
    image = torch.zeros(3, 1, 100_000, dtype=torch.uint8)
    image[..., 49_999:50_001] = 200
    result = resize_image(image, Preprocess(size=(64, 64)))  # whole, it would be 64 x 6,400,000
    assert result.shape == (3, 64, 64)
    assert result.max() == 200


def test_normalise():
    image = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 2)
    result = normalise(image, Preprocess(mean=(0.5,), std=(0.25,)))
    assert result.dtype == torch.float32
    assert result.flatten().tolist() == [-2.0, 2.0]


def test_prepare_all(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.png")
    preprocess = Preprocess(size=(8, 8))
    batch, _ = prepare_all([tmp_path / "a.png", colours()], preprocess)
    assert batch.shape == (2, 3, 8, 8)
    assert torch.equal(batch[0], batch[1])
    assert torch.equal(batch[0], prepare(read_image(colours()), preprocess))


# -- within bounds


def test_only_image_formats_are_opened(tmp_path):
    """Pillow would run Ghostscript on PostScript, whatever its name."""
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UnreadableImage, match=r"a\.png: not an image in any known format"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("colour", [0, 2, 6])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_png_whose_data_end_too_early_is_cut_off(tmp_path, colour, rows):
    """Its file and its compressed data are whole, so that Pillow leaves the rest black."""
    row = b"\0" + b"\x80" * 5 * {0: 1, 2: 3, 6: 4}[colour]
    (tmp_path / "a.png").write_bytes(png(5, 4, colour=colour, rows=row * rows))
    with pytest.raises(UnreadableImage, match=r"a\.png: cut off: its data end before the last of its 5 x 4 pixels"):
        read_image(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(png(5, 4, colour=colour, rows=row * 4))
    assert read_image(tmp_path / "a.png").unique().tolist() == [128]


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB", "RGBA"])
@pytest.mark.parametrize("interlaced", [False, True])
def test_a_black_png_is_whole(tmp_path, mode, interlaced):
    image = Image.new(mode, (300, 301))
    image.save(tmp_path / "a.png")
    if interlaced:  # which Pillow does not write; by hand, each of the seven images of black pixels
        parts = [(-(-(300 - x) // across), -(-(301 - y) // down)) for across, down, x, y in ADAM7]
        content = b"".join(bytes(rows * (1 + columns)) for columns, rows in parts)
        whole = png(300, 301, rows=content)
        header = whole[12:28] + b"\x01"
        (tmp_path / "a.png").write_bytes(whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:])
        assert Image.open(tmp_path / "a.png").info["interlace"] == 1
    assert read_image(tmp_path / "a.png", 1).unique().tolist() == [0]


@pytest.mark.parametrize(
    ("width", "height", "sentence"),
    [
        (1, MAX_PIXELS, "sides of more than 100,000 pixels are not decoded"),
        (2_000_000, 1, "sides of more than 100,000 pixels are not decoded"),
        (13_000, 13_000, "cut off"),
    ],
)
def test_memory_is_not_taken_for_what_a_header_claims(tmp_path, monkeypatch, width, height, sentence):
    (tmp_path / "a.png").write_bytes(png(width, height, rows=bytes(1000)))
    monkeypatch.setattr(Image.core, "new", None)  # allocates the pixels
    with pytest.raises(UnreadableImage, match=sentence):
        read_image(tmp_path / "a.png")


def test_a_large_image_is_not_copied_as_a_whole(tmp_path, monkeypatch):
    """It is converted strip by strip, with the same result."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (31, 20, 3), np.uint8))
    modes = {"RGB": noise, "L": noise.convert("L"), "P": noise.quantize(16), "CMYK": noise.convert("CMYK")}
    copy = Image.Image.copy

    def small_copy(part: Image.Image) -> Image.Image:
        assert part.width * part.height <= 70
        return copy(part)

    modes |= {"LA": noise.convert("LA"), "1": noise.convert("1"), "I;16": Image.fromarray(np.uint16(WIDE.repeat(9, 0)))}
    for mode, image in modes.items():
        path = tmp_path / f"{mode[0]}.tif"
        image.save(path)
        for channels in (1, 3):
            monkeypatch.undo()
            whole = read_image(path, channels)
            monkeypatch.setattr("vertebra.images.STRIP", 70)
            monkeypatch.setattr(Image.Image, "copy", small_copy)
            assert torch.equal(read_image(path, channels), whole), mode


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "nearest-exact"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_resampled_as_torchvision_does(interpolation, antialias, kind):
    from torchvision.transforms.v2 import functional as F

    image = torch.randint(256, (3, 37, 50), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    image = image if kind == torch.uint8 else image / 255
    preprocess = Preprocess(interpolation=interpolation, antialias=antialias)
    for size in ((20, 20), (64, 51), (37, 50), (1, 9)):
        expected = F.resize(image, list(size), F.InterpolationMode(interpolation), antialias=antialias)
        assert torch.equal(resample(image, size, preprocess), expected)
    cropped = resize_image(image, Preprocess((24, 31), interpolation=interpolation, antialias=antialias, crop=1.0))
    assert cropped.shape == (3, 24, 31)


def test_prepared_as_torchvision_does():
    from torchvision.transforms.v2 import functional as F

    image = torch.randint(256, (3, 41, 67), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    preprocess = Preprocess((32, 32), crop=0.9)
    sides = [round(32 / 0.9), round(67 * round(32 / 0.9) / 41)]
    expected = F.center_crop(F.resize(image, sides, F.InterpolationMode("bilinear"), antialias=True), [32, 32])
    expected = F.normalize(F.to_dtype(expected, torch.float32, scale=True), preprocess.mean, preprocess.std)
    assert torch.equal(prepare(image, preprocess), expected)


def test_a_single_pixel():
    image = torch.tensor([[[0, 255]], [[10, 20]], [[7, 7]]], dtype=torch.uint8)
    assert resample(image, (1, 1), Preprocess()).flatten().tolist() == [127, 15, 7]
