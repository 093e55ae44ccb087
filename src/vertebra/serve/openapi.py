"""What the OpenAPI description says beyond what FastAPI finds out itself."""

from __future__ import annotations

from typing import Any

from fastapi.responses import Response

DESCRIPTION = (
    "Predictions on images. Boxes are x1, y1, x2, y2 in pixels of the image, end exclusive; masks are COCO's "
    "compressed RLE; maps are PNG files in base64. Every error is one sentence, in `detail`."
)
THRESHOLD = "Detections with a lower score are dropped; default: that of the model. Only for models that have one."
TOP = "Classes that are listed, the most likely first. Only for models that rank classes."
FORMAT = "`json` for the prediction, `image` for the image with the prediction drawn in."
LABEL = "Class of the answer that is explained; default: that of the top-scoring answer."
POINT = "A pixel of the object or the region that is explained, together with the other coordinate."
TECHNIQUE = "How it is explained: a name in `techniques` of /models; default: the first of them."
REASONS = {
    400: "The body is no image that can be read.",
    401: "The token is missing or wrong.",
    404: "There is no such model.",
    408: "The request did not arrive in time.",
    413: "The body or the image is too large.",
    415: "The content type is none of those listed.",
    422: "A parameter is wrong.",
    500: "The model failed on this image.",
    503: "Too much is going on: try again after the seconds in Retry-After.",
    504: "There was no answer in time.",
}
ERROR = {
    "application/json": {
        "schema": {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
    }
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The description of answers that are errors."""
    return {status: {"description": REASONS[status], "content": ERROR} for status in statuses}


NUMBER = {"type": "number"}
OBJECT = {
    "type": "object",
    "properties": {
        "class": {"type": "string"},
        "label": {"type": "integer", "description": "Index of the class."},
        "score": NUMBER,
        "box": {"type": "array", "items": NUMBER, "minItems": 4, "maxItems": 4, "description": "x1, y1, x2, y2"},
        "mask": {
            "type": "object",
            "description": "COCO's compressed RLE.",
            "properties": {"size": {"type": "array", "items": {"type": "integer"}}, "counts": {"type": "string"}},
        },
        "keypoints": {
            "type": "array",
            "items": {"type": "array", "items": NUMBER},
            "description": "x, y and score of each.",
        },
    },
}
ANSWER = {
    "type": "object",
    "description": "Which properties there are depends on what the model predicts.",
    "properties": {
        "model": {"type": "string"},
        "path": {"type": "string", "description": "Name of the uploaded file, or the URL."},
        "size": {"type": "array", "items": {"type": "integer"}, "description": "Height and width of the image."},
        "threshold": NUMBER,
        "objects": {"type": "array", "items": OBJECT},
        "classes": {
            "type": "array",
            "items": {"type": "object", "properties": {"class": {"type": "string"}, "probability": NUMBER}},
        },
        "shares": {
            "type": "object",
            "additionalProperties": NUMBER,
            "description": "Of the classes in the pixels.",
        },
        "label_map": {"type": "string", "description": "Indexed PNG in base64: the class of each pixel, 255 for none."},
        "salient": NUMBER,
        "saliency_map": {"type": "string", "description": "Grey PNG in base64: 0 to 255 for 0 to 1."},
    },
    "required": ["model", "path", "size"],
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
BODY = {
    "required": True,
    "content": {
        "image/*": BINARY,
        "application/octet-stream": BINARY,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"image": {"type": "string", "format": "binary"}},
                "required": ["image"],
            }
        },
        "application/json": {
            "schema": {
                "oneOf": [
                    {
                        "type": "object",
                        "properties": {"image": {"type": "string", "description": "An image file in base64."}},
                        "required": ["image"],
                        "additionalProperties": False,
                    },
                    {
                        "type": "object",
                        "properties": {"url": {"type": "string", "description": "If the service allows its host."}},
                        "required": ["url"],
                        "additionalProperties": False,
                    },
                ]
            }
        },
    },
}
PREDICTION: dict[str, Any] = {
    "tags": ["prediction"],
    "response_class": Response,
    "openapi_extra": {"requestBody": BODY},
    "responses": {
        200: {
            "description": "The prediction, or the image with it drawn in.",
            "content": {"application/json": {"schema": ANSWER}, "image/png": BINARY},
        },
        **errors(400, 404, 408, 413, 415, 422, 500, 503, 504),
    },
}
"""Arguments of the routes that predict."""
EXPLANATION: dict[str, Any] = {
    "tags": ["prediction"],
    "response_class": Response,
    "openapi_extra": {"requestBody": BODY},
    "responses": {
        200: {
            "description": "The image under the colours of its map: red pixels count most, dark blue ones do not.",
            "content": {"image/png": BINARY},
        },
        **errors(400, 404, 408, 413, 415, 422, 500, 503, 504),
    },
}
"""Arguments of the route that explains."""
