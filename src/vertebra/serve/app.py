"""The HTTP API: FastAPI over a Service."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import fastapi
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

import vertebra
from vertebra.errors import VertebraError, shown
from vertebra.predict import Predictor
from vertebra.serve import openapi
from vertebra.serve.limits import Limits
from vertebra.serve.metrics import CONTENT_TYPE, Measured
from vertebra.serve.service import RETRY, Query, Question, Service

PAGE = Path(__file__).parent / "page"
HTML_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
MAX_TOP = 1000
"""Most classes that are listed."""
# Types of parameters; FastAPI looks for them among the names of the module.
BEARER = HTTPBearer(auto_error=False)
Threshold = Annotated[float | None, fastapi.Query(ge=0, le=1, description=openapi.THRESHOLD)]
Top = Annotated[int | None, fastapi.Query(ge=1, le=MAX_TOP, description=openapi.TOP)]
Label = Annotated[str | None, fastapi.Query(max_length=500, description=openapi.LABEL)]
Coordinate = Annotated[int | None, fastapi.Query(ge=0, description=openapi.POINT)]
Technique = Annotated[str | None, fastapi.Query(max_length=100, description=openapi.TECHNIQUE)]
Form = Annotated[Literal["json", "image"], fastapi.Query(description=openapi.FORMAT)]


def create_app(models: Mapping[str, Predictor], limits: Limits | None = None, *, token: str | None = None) -> FastAPI:
    """The service as an ASGI app.

    Args:
        models: by the names that they have in URLs.
        limits: on what a request, and all requests together, may take.
        token: which requests must have in the header `Authorization: Bearer TOKEN`, except those for the page, its
            documentation, /health and /ready; None asks for none.

    Raises:
        VertebraError: if there is no model, or one that does not predict on image files.
    """
    if not models:
        raise VertebraError("there is no model to serve.")
    for name, predictor in models.items():
        predictor.stream([])  # raises if it cannot predict on images alone
        if (channels := predictor.task.preprocess.channels) not in (1, 3):
            raise VertebraError(f"{name} takes images of {channels} channels; image files have 1 or 3.")
    service = Service(models, limits or Limits())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="Vertebra",
        version=vertebra.__version__,
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # which loads its scripts from another host
        redoc_url=None,
    )
    app.state.service = service
    app.add_middleware(Measured, metrics=service.metrics)
    _handle_errors(app)

    async def authorised(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]) -> None:
        given = "" if credentials is None else credentials.credentials
        if not hmac.compare_digest(given.encode("latin-1"), (token or "").encode()):  # headers are decoded so
            raise HTTPException(
                401, "this service needs the header `Authorization: Bearer TOKEN`.", {"WWW-Authenticate": "Bearer"}
            )

    api = APIRouter(dependencies=[Depends(authorised)] if token else [], responses=openapi.errors(401) if token else {})

    @api.post("/predict", summary="Predict with the one model.", **openapi.PREDICTION)
    async def predict(
        request: Request, threshold: Threshold = None, top: Top = None, format: Form = "json"
    ) -> Response:
        return await service.answer(service.only(), request, Query(threshold, top, format))

    @api.post("/models/{name}/predict", summary="Predict with a model.", **openapi.PREDICTION)
    async def predict_with_model(
        name: str, request: Request, threshold: Threshold = None, top: Top = None, format: Form = "json"
    ) -> Response:
        return await service.answer(name, request, Query(threshold, top, format))

    @api.post("/models/{name}/explain", summary="Explain an answer of a model.", **openapi.EXPLANATION)
    async def explain(
        name: str,
        request: Request,
        label: Label = None,
        x: Coordinate = None,
        y: Coordinate = None,
        technique: Technique = None,
    ) -> Response:
        if (x is None) != (y is None):
            raise HTTPException(422, "x and y belong together: give both of them, or none.")
        point = None if x is None or y is None else (x, y)
        return await service.answer(name, request, Question(label, point, technique))

    @api.get("/models", summary="The models, their classes and thresholds.", tags=["about"])
    async def list_models() -> list[dict[str, Any]]:
        return [service.describe(name) for name in service.models]

    @api.get(
        "/metrics", summary="Metrics in Prometheus' text format.", tags=["about"], response_class=PlainTextResponse
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    app.include_router(api)

    @app.get("/health", summary="Whether the service runs.", tags=["about"])
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", summary="Whether the models take requests.", tags=["about"], responses=openapi.errors(503))
    async def ready() -> dict[str, str]:
        if not service.ready:
            raise HTTPException(503, "the models do not take requests now.", headers=RETRY)
        return {"status": "ready"}

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=HTML_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html", headers=HTML_HEADERS)

    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    return app


def _handle_errors(app: FastAPI) -> None:
    """Every error as `{"detail": SENTENCE}`."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        known = {
            404: "there is no such page here; /docs lists those that there are.",
            405: "this page does not have that method; /docs lists those that there are.",
        }
        plain = {"Not Found", "Method Not Allowed"}
        sentence = known.get(error.status_code, error.detail) if error.detail in plain else error.detail
        return JSONResponse({"detail": sentence}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        name, message = ".".join(map(str, first["loc"][1:])), first["msg"].lower()
        return JSONResponse({"detail": f"{name} is {shown(first.get('input'))}; {message}."}, 422)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": "the request failed."}, 500)
