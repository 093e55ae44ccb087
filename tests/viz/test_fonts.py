"""Names of classes in any script: a font that has their characters is used, else their numbers are drawn."""

import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw

from vertebra.viz import fonts, plots


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No font but DejaVu Sans is known or installed."""
    use(monkeypatch)
    yield
    for function in (fonts._file_with, fonts._installed):
        function.cache_clear()


def use(monkeypatch, *files):
    for function in (fonts._file_with, fonts._installed):
        function.cache_clear()
    monkeypatch.setattr(fonts, "_in_use", [fonts._dejavu()])
    monkeypatch.setattr(fonts, "_missing", set())
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: list(map(str, files)))


@pytest.fixture
def squares(tmp_path, monkeypatch):
    """An installed font whose only letters, \u732b and a, are filled squares."""
    pen = TTGlyphPen(None)
    for i, point in enumerate([(0, 0), (0, 800), (800, 800), (800, 0)]):
        (pen.lineTo if i else pen.moveTo)(point)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord("\u732b"): "square", ord("a"): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = tmp_path / "squares.ttf"
    builder.save(path)
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    use(monkeypatch, broken, path)
    return path


def drawn(text):
    canvas = Image.new("L", (300, 40), 255)
    fonts.write(ImageDraw.Draw(canvas), 0, 20, text, size=20, fill="black")
    return np.asarray(canvas) < 128


def test_a_font_that_has_the_character_is_used(squares):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fonts.drawable("\u732b caf\xe9") == "\u732b caf\xe9"
    assert fonts.length("\u732b", 20) == 20
    assert fonts.length("\u732ba", 20) == pytest.approx(20 + fonts.length("a", 20))  # the a is DejaVu's
    square = drawn("\u732b")
    assert square.sum() == 16 * 16


def test_a_character_that_no_font_has_is_drawn_as_its_number():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert fonts.drawable("\u732b cat") == r"\u732b cat"
        assert fonts.drawable("\u72ac") == r"\u72ac"
    (warning,) = caught
    assert str(warning.message).startswith("no installed font has the character '\u732b' of a name")
    assert np.array_equal(drawn(fonts.drawable("\u732b")), drawn(r"\u732b"))


@pytest.mark.parametrize("text", ["caf\udce9", "a\nb", "a\x00b", "a\u2028b"])
def test_what_is_no_character_is_drawn_as_its_number(text):
    assert fonts.drawable(text).isprintable()
    assert drawn(fonts.drawable(text)).any()


def test_marks_belong_to_the_letter_before_them():
    assert fonts.drawable("e\u0301\u200d") == "e\u0301\u200d"


@pytest.mark.usefixtures("real_plots")
def test_plots_use_the_font(squares):
    figure = plots.confusion([[1, 0], [0, 1]], ("\u732b", "caf\udce9"))
    plots.plot(figure, "")
    ticks = figure.axes[0].get_yticklabels()
    assert [tick.get_text() for tick in ticks] == ["\u732b", r"caf\udce9"]
    assert ticks[0].get_fontfamily() == ["DejaVu Sans", "Squares"]
    assert "Squares" not in ticks[1].get_fontfamily()
