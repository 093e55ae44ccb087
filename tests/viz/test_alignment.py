"""Attention over tokens, as images and as a table whose weights can be chosen."""

import base64
import html
import json
import re

import pytest
import torch

from vertebra.structures import Alignment
from vertebra.viz import alignment, report

SOURCE, TARGET = ("12", "<b>", '"x"', "&"), ("no", "1")


@pytest.fixture
def several():
    weights = torch.rand(2, 3, len(TARGET), len(SOURCE), generator=torch.Generator().manual_seed(0))
    return Alignment(SOURCE, TARGET, weights)


def test_a_table_holds_the_weights_of_every_head(several):
    table = alignment.table(several)
    data = json.loads(html.unescape(re.search(r'data-weights="([^"]*)"', table)[1]))
    assert list(data) == ["", "1.1", "1.2", "1.3", "2.1", "2.2", "2.3"]
    for key, weights in (("2.3", several.weights[1, 2]), ("", several.weights[1].mean(0))):
        held = torch.frombuffer(bytearray(base64.b64decode(data[key])), dtype=torch.uint8)
        assert torch.allclose(held.view(len(TARGET), len(SOURCE)) / 255, weights, atol=0.5 / 255 + 1e-6)


def test_a_single_head_needs_no_choice(several):
    single = Alignment(SOURCE, TARGET, several.weights[:1, :1])
    assert "select" not in alignment.table(single)


def test_what_is_cut_is_said():
    long = Alignment(tuple(f"w{i}" for i in range(81)), TARGET, torch.rand(1, 2, 2, 81))
    table = alignment.table(long)
    assert "<p>source (the first 80 of 81 tokens)</p>" in table
    assert "translation (" not in table
    assert ">w79<" in table
    assert ">w80<" not in table
    assert alignment.matrix(long).axes[0].get_xlabel() == "source (the first 80 of 81 tokens)"
    assert alignment.heads(long).get_supxlabel() == "source (the first 80 of 81 tokens)"


def test_heads_are_labelled_with_tokens(several):
    figure = alignment.heads(several)
    labels = [[label.get_text() for label in axes.get_xticklabels()] for axes in figure.axes]
    assert labels == [[]] * 3 + [list(SOURCE)] * 3
    assert [label.get_text() for label in figure.axes[3].get_yticklabels()] == list(TARGET)


def test_a_head_is_chosen_in_a_browser(browser, several, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    report.write_page(tmp_path / "page.html", "Alignments", [alignment.table(several), alignment.table(several)])
    browser.get((tmp_path / "page.html").as_uri())
    cells = browser.find_elements(By.CSS_SELECTOR, "table.alignment td")

    def shown(number):
        return cells[number].get_attribute("title"), cells[number].value_of_css_property("background-color")

    before = [shown(i) for i in range(len(cells))]
    assert before[2][0] == f'no looks at "x": {several.weights[1, :, 0, 2].mean():.2f}'
    Select(browser.find_elements(By.TAG_NAME, "select")[0]).select_by_visible_text("layer 1, head 2")
    weight = float(several.weights[0, 1, 0, 2])
    about, _, value = shown(2)[0].rpartition(" ")
    assert about == 'no looks at "x":'
    assert float(value) == pytest.approx(weight, abs=0.008)  # bytes, and two decimals
    red = 255 + (alignment.COLOUR[0] - 255) * weight
    assert abs(int(re.match(r"rgba?\((\d+)", shown(2)[1])[1]) - red) < 2
    assert [shown(i) for i in range(8, 16)] == before[8:]  # those of the other table
    Select(browser.find_elements(By.TAG_NAME, "select")[0]).select_by_index(0)
    for i in range(8):
        value, earlier = (float(title.rpartition(" ")[2]) for title in (shown(i)[0], before[i][0]))
        assert value == pytest.approx(earlier, abs=0.011)
