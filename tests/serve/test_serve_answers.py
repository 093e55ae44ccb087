"""What the service answers: the predictions of the Predictor, whichever way the image is sent."""

import base64
import io
import json

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import vertebra
from vertebra.serve import service
from vertebra.serve.app import create_app

KINDS = ("category", "boxes", "masks", "keypoints", "label_map", "saliency_map")


def expected(predictor, content, **options):
    """What `vertebra predict --stream` writes of an image, but for its path."""
    (result,) = predictor.predict(Image.open(io.BytesIO(content)), **options)
    return result, {key: value for key, value in result.to_dict().items() if key != "path"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_the_prediction(client, models, photo, kind):
    response = client.post(f"/models/{kind}/predict", files={"image": ("street/photo.png", photo)})
    assert response.status_code == 200, response.text
    answer = response.json()
    result, record = expected(models[kind], photo)
    assert answer["model"] == kind
    assert answer["path"] == "photo.png"
    assert answer["size"] == [50, 60]
    assert record.items() <= answer.items()
    maps = set(answer) & {"label_map", "saliency_map"}
    assert maps == {kind} & {"label_map", "saliency_map"}
    for name in maps:
        image = Image.open(io.BytesIO(base64.b64decode(answer[name])))
        values = result.semantic if result.saliency is None else (result.saliency * 255).round()
        assert image.mode == ("P" if name == "label_map" else "L")
        assert np.array_equal(np.asarray(image), values.numpy().astype(np.uint8))
    assert ("threshold" in answer) == (kind in ("boxes", "masks", "keypoints"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_drawn_image(client, models, photo, kind):
    response = client.post(f"/models/{kind}/predict?format=image", content=photo)
    assert response.headers["content-type"] == "image/png"
    drawn = expected(models[kind], photo)[0].plot(top=5)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(response.content))), np.asarray(drawn))


def test_every_way_to_send_an_image_gives_one_answer(client, photo):
    url, text = "/models/masks/predict", base64.b64encode(photo).decode()
    answers = [
        client.post(url, files={"anything": photo}, data={"more": "fields"}),
        client.post(url, content=photo, headers={"content-type": "image/png"}),
        client.post(url, content=photo, headers={"content-type": "application/x-www-form-urlencoded"}),
        client.post(url, content=photo),
        client.post(url, json={"image": text}),
        client.post(url, json={"image": f"data:image/png;base64,{text}"}),
    ]
    contents = [{**answer.json(), "path": ""} for answer in answers]
    assert len(contents[0]["objects"]) == 2  # the third has a score of 101 / 256
    assert all(content == contents[0] for content in contents)


def test_threshold_and_top(client, photo):
    def scores(**query):
        answer = client.post("/models/boxes/predict", params=query, content=photo).json()
        return answer["threshold"], [round(entry["score"] * 256) for entry in answer["objects"]]

    assert scores() == (0.5, [200, 141])
    assert scores(threshold=0.1) == (0.1, [200, 141, 101])
    assert scores(threshold=0.6) == (0.6, [200])
    assert len(client.post("/models/category/predict?top=2", content=photo).json()["classes"]) == 2
    wrong = client.post("/models/category/predict?threshold=0.5", content=photo)
    assert wrong.status_code == 400
    assert wrong.json()["detail"].startswith("threshold is for models that predict boxes")


def test_one_model_needs_no_name(models, photo):
    with TestClient(create_app({"only": models["boxes"]})) as client:
        assert len(client.post("/predict", content=photo).json()["objects"]) == 2


def test_several_models_need_names(client, photo):
    response = client.post("/predict", content=photo)
    assert response.status_code == 404
    assert "category, label_map" in response.json()["detail"]
    assert "Did you mean 'boxes'?" in client.post("/models/boxe/predict", content=photo).json()["detail"]


def test_models_are_described(client, models):
    listed = {about["name"]: about for about in client.get("/models").json()}
    assert set(listed) == set(models)
    assert listed["keypoints"]["keypoints"] == {"names": ["left", "right"], "skeleton": [[0, 1]]}
    assert listed["category"]["classes"] == ["cat", "dog", "emu"]
    assert [about["threshold"] for about in listed.values()] == [None, None, None, 0.5, 0.5, 0.5]
    assert len(listed["boxes"]["colours"]) == len(set(listed["boxes"]["colours"])) == 32


def test_health_readiness_and_metrics(client, photo):
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").status_code == 200
    before = metrics(client)
    client.post("/models/boxes/predict", content=photo)
    client.post("/models/boxes/predict", content=b"no image")
    client.get("/nothing/of/the/kind")
    after = metrics(client)

    def added(name):
        return after[name] - before.get(name, 0)

    predict = 'endpoint="predict_with_model"'
    assert added(f'vertebra_requests_total{{{predict},status="200"}}') == 1
    assert added(f'vertebra_requests_total{{{predict},status="400"}}') == 1
    assert added('vertebra_failures_total{model="boxes",status="400"}') == 1
    assert added('vertebra_requests_total{endpoint="other",status="404"}') == 1
    assert added(f"vertebra_request_seconds_count{{{predict}}}") == 2
    assert added('vertebra_batch_size_bucket{le="1.0",model="boxes"}') == 1
    assert after['vertebra_queue_length{model="boxes"}'] == 0
    assert after["vertebra_requests_in_flight"] == 0


def metrics(client):
    """Values by name and labels."""
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    lines = [line.rpartition(" ") for line in response.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_the_service_is_not_ready_before_it_starts_and_after_it_stops(models):
    app = create_app({"boxes": models["boxes"]})
    idle = TestClient(app)  # which starts nothing outside of `with`
    assert idle.get("/ready").status_code == 503
    with TestClient(app) as client:
        assert client.get("/ready").status_code == 200
    assert idle.get("/ready").status_code == 503
    assert idle.get("/health").status_code == 200


def test_pages_load_nothing_from_elsewhere(client):
    for path in ("/", "/docs", "/page/page.js", "/page/page.css", "/page/docs.js"):
        response = client.get(path)
        assert response.status_code == 200, path
        assert "http://" not in response.text.replace("http://www.w3.org/", ""), path
        assert "https://" not in response.text, path
    assert "default-src 'none'" in client.get("/").headers["content-security-policy"]
    assert client.get("/page/../app.py").status_code == 404
    assert client.get("/page/%2e%2e/app.py").status_code == 404


def test_the_openapi_description_names_every_route(client):
    paths = client.get("/openapi.json").json()["paths"]
    of_models = {"/models", "/models/{name}/predict", "/models/{name}/explain"}
    assert set(paths) == {"/predict", "/metrics", "/health", "/ready"} | of_models
    answers = paths["/predict"]["post"]["responses"]
    assert {"200", "400", "404", "408", "413", "415", "422", "500", "503", "504"} == set(answers)
    assert "HTTPValidationError" not in json.dumps(answers)


def test_explanations(client, models, photo):
    explained = client.post("/models/category/explain?label=dog", files={"image": ("photo.png", photo)})
    assert explained.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(explained.content))
    assert image.size == (300, 250)  # small images are drawn enlarged
    other = client.post("/models/category/explain?label=cat", content=photo)
    assert other.content != explained.content
    (dog,) = vertebra.explain(models["category"].checkpoint, Image.open(io.BytesIO(photo)), classes=["dog"])
    assert np.array_equal(np.asarray(image), np.asarray(dog.plot()))
    assert client.post("/models/label_map/explain?x=3&y=4", content=photo).status_code == 200
    abouts = {about["name"]: about for about in client.get("/models").json()}
    assert list(abouts["category"]["techniques"]) == ["grad_cam", "grad_cam_plus_plus", "occlusion"]
    assert abouts["boxes"]["techniques"] == {}
    occluded = client.post("/models/category/explain?label=dog&technique=occlusion", content=photo)
    (dog,) = vertebra.explain(
        models["category"].checkpoint, Image.open(io.BytesIO(photo)), classes=["dog"], techniques=["occlusion"]
    )
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(occluded.content))), np.asarray(dog.plot()))


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("category/explain?label=dogs", 400, "has no class 'dogs'"),
        ("category/explain?x=3&y=4", 400, "point"),
        (
            "category/explain?technique=lime",
            400,
            "technique is 'lime'; there are grad_cam, grad_cam_plus_plus, occlusion",
        ),
        ("category/explain?technique=last_attention", 400, "technique is 'last_attention'; there are grad_cam"),
        ("label_map/explain?x=3", 422, "x and y belong together"),
        ("label_map/explain?x=300&y=3", 400, "the image has 60 x 50 pixels"),
        ("boxes/explain", 400, "cannot be explained"),
    ],
)
def test_refused_explanations(client, photo, path, status, sentence):
    response = client.post(f"/models/{path}", content=photo)
    assert response.status_code == status
    assert sentence in response.json()["detail"]


def test_few_explanations_may_wait(client, photo, monkeypatch):
    monkeypatch.setattr(service, "MOST_EXPLAINED", 0)
    response = client.post("/models/category/explain", content=photo)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
