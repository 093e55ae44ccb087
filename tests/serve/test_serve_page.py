"""The web page in a real browser."""

import json
import threading
import time

import pytest
import uvicorn
from tests.serve.conftest import drawn, png

from vertebra.serve.app import create_app
from vertebra.serve.limits import Limits

TOKEN = "a token"
PIXEL = """
const canvas = document.getElementById("canvas"), scale = canvas.width / arguments[2];
const at = [arguments[0], arguments[1]].map((x) => Math.round((x + 0.5) * scale));
return [...canvas.getContext("2d").getImageData(...at, 1, 1).data].slice(0, 3);
"""


@pytest.fixture(scope="module")
def address(models):
    """Of a running service that asks for a token."""
    names = ("masks", "keypoints", "category", "label_map", "saliency_map")
    app = create_app({name: models[name] for name in names}, Limits(latency_ms=0), token=TOKEN)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(browser, address, tmp_path):
    """The page with the models listed and a function that waits for what it shows."""
    (tmp_path / "photo.png").write_bytes(png(drawn()))
    browser.get(address)
    until(lambda: element(browser, "access").is_displayed())
    element(browser, "token").send_keys(TOKEN)
    browser.find_element("css selector", "#access button").click()
    until(lambda: browser.find_elements("css selector", "#model option"))
    browser.get_log("browser")  # the 401 above
    return browser


def element(browser, name):
    return browser.find_element("id", name)


def rows(browser):
    """The texts of the list, all at one time."""
    script = (
        "return [...document.querySelectorAll('#list li')].map((row) => row.innerText.replace(/\\s+/g, ' ').trim())"
    )
    return browser.execute_script(script)


def choose(browser, name):
    browser.find_element("xpath", f"//option[text()='{name}']").click()


def predicted(browser):
    until(lambda: "pixels" in element(browser, "status").text)
    assert element(browser, "status").text.startswith("photo.png: 60 × 50 pixels")


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def slide(browser, value):
    script = (
        "const t = document.getElementById('threshold'); t.value = arguments[0]; t.dispatchEvent(new Event('input'))"
    )
    browser.execute_script(script, value)


@pytest.mark.slow
def test_an_image_is_shown_with_its_prediction(page, tmp_path, models):
    assert not element(page, "canvas").is_displayed()
    element(page, "file").send_keys(str(tmp_path / "photo.png"))
    predicted(page)
    assert rows(page) == ["even 0.781", "odd 0.551"]  # at the model's threshold, 0.5
    x, y = 12, 9  # inside of the first mask
    green = page.execute_script(PIXEL, x, y, 60)[1]
    assert green > 20  # the image has red alone
    slide(page, 0.3)
    assert len(rows(page)) == 3
    slide(page, 0.6)
    assert rows(page) == ["even 0.781"]
    assert page.execute_script(PIXEL, 35, 25, 60) == [141, 0, 0]  # inside of the second, which is hidden
    element(page, "download").click()
    until((page.folder / "photo.json").exists)
    saved = json.loads((page.folder / "photo.json").read_text())
    (expected,) = models["masks"].predict(drawn(), threshold=0.6)
    assert saved["objects"] == expected.to_dict()["objects"]
    assert (saved["threshold"], saved["path"], saved["model"]) == (0.6, "photo.png", "masks")

    choose(page, "keypoints")
    predicted(page)
    assert rows(page) == ["even 0.781", "odd 0.551"]
    assert "photo.png: even" in element(page, "canvas").get_attribute("aria-label")
    choose(page, "category")
    until(lambda: len(page.find_elements("css selector", "#list meter")) == 3)
    predicted(page)
    (answer,) = models["category"].predict(drawn())
    best = answer.to_dict()["classes"][0]
    assert rows(page)[0] == f"{best['class']} {100 * best['probability']:.1f} %"
    before = page.execute_script(PIXEL, 50, 10, 60)
    page.find_element("css selector", "#list button").click()
    until(lambda: element(page, "status").text.startswith(f"Grad-CAM of {best['class']}"))
    by_gradients = page.execute_script(PIXEL, 50, 10, 60)
    assert by_gradients != before
    page.find_element("xpath", "//option[text()='occlusion']").click()
    until(lambda: element(page, "status").text.startswith(f"occlusion of {best['class']}"))
    assert page.execute_script(PIXEL, 50, 10, 60) not in (before, by_gradients)
    page.find_element("css selector", "#list button").click()
    page.execute_script(  # chosen while occlusion is computed
        "document.querySelector('#list button').click(); const technique = document.getElementById('technique');"
        "technique.value = 'grad_cam'; technique.dispatchEvent(new Event('change'))"
    )
    until(lambda: element(page, "status").text.startswith(f"Grad-CAM of {best['class']}"))
    assert page.execute_script(PIXEL, 50, 10, 60) == by_gradients
    page.find_element("css selector", "#list button").click()
    until(lambda: page.execute_script(PIXEL, 50, 10, 60) == before)
    assert not element(page, "slider").is_displayed()
    for name in ("label_map", "saliency_map"):
        choose(page, name)
        until(lambda name=name: rows(page) and ("salient" in rows(page)[0]) == (name == "saliency_map"))
        predicted(page)
        assert page.execute_script(PIXEL, 0, 0, 60) != [255, 255, 255]
    assert not [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.slow
def test_errors_are_shown(page, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"no image")
    element(page, "file").send_keys(str(tmp_path / "photo.png"))
    until(lambda: "not an image in any known format" in element(page, "status").text)
    assert not rows(page)
    assert not element(page, "download").is_displayed()


@pytest.mark.slow
def test_the_page_of_the_api(browser, address):
    browser.get_log("browser")
    browser.get(f"{address}/docs")
    until(lambda: len(browser.find_elements("css selector", "section")) == 7)
    assert "POST /models/{name}/predict" in browser.find_element("id", "api").text
    assert browser.get_log("browser") == []
