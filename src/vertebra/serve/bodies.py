"""The image file that a request sends."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from concurrent.futures import Executor
from pathlib import PurePath

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from vertebra.errors import escaped, shown
from vertebra.predict.sources import EncodedImage
from vertebra.predict.sources.urls import public
from vertebra.serve import urls
from vertebra.serve.limits import Limits

RAW = ("application/octet-stream", "application/x-www-form-urlencoded", "")
"""Content types of a body that is an image file, beside image/...; the second is what curl says of any."""
NAME_LENGTH = 200
"""Characters of the name of a file that answers repeat."""
FORM_FIELDS = 8
"""Most fields of a form beside the file."""


async def image_file(request: Request, limits: Limits, downloads: Executor) -> EncodedImage:
    """The image file in a request's body, or that of the URL in it, not decoded.

    Args:
        request: its body is an image file, a form with one, or JSON: `{"image": BASE64}` or `{"url": URL}`.
        limits: `max_body` is checked while the body is read.
        downloads: where URLs are downloaded.

    Raises:
        HTTPException: if the body is none of these or too large.
        VertebraError: if the image cannot be downloaded.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    limited = Request(request.scope, _limited(request.receive, limits.max_body))
    if kind == "multipart/form-data":
        return await _uploaded(limited)
    if kind == "application/json":
        key, value = _entry(await limited.body())
        return _decoded(value) if key == "image" else await _downloaded(value, limits, downloads)
    if kind not in RAW and not kind.startswith("image/"):
        raise HTTPException(
            415, f"the content type is {shown(kind)}; it must be image/..., multipart/form-data or application/json."
        )
    return _encoded("image", await limited.body())


def _entry(body: bytes) -> tuple[str, str]:
    """The one entry of a JSON body."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is no JSON, as its content type says it is.") from None
    if not isinstance(content, dict) or len(content) != 1 or not {"image", "url"} & set(content):
        raise HTTPException(400, 'the body must be {"image": BASE64} or {"url": URL}, and nothing else.')
    ((key, value),) = content.items()
    if not isinstance(value, str):
        raise HTTPException(400, f"{key} is {shown(value)}; it must be a string.")
    return key, value


def _decoded(text: str) -> EncodedImage:
    """From base64, with or without the beginning of a data URL."""
    try:
        return _encoded("image", base64.b64decode(text.rpartition(";base64,")[2], validate=True))
    except (binascii.Error, ValueError):
        raise HTTPException(400, "image is no base64 of a file.") from None


async def _downloaded(url: str, limits: Limits, downloads: Executor) -> EncodedImage:
    if not limits.allow_urls:
        raise HTTPException(400, "this service downloads no images from URLs; send the image itself.")
    content = await asyncio.get_running_loop().run_in_executor(
        downloads,
        lambda: urls.download(url, limits.allow_urls, max_bytes=limits.max_body, timeout=limits.timeout),
    )
    return _encoded(public(url)[:NAME_LENGTH], content)


async def _uploaded(request: Request) -> EncodedImage:
    """The one file of a form."""
    try:
        async with request.form(max_files=1, max_fields=FORM_FIELDS) as form:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            if not files:
                raise HTTPException(400, "the form has no file; upload the image as one, in a field of any name.")
            name = PurePath((files[0].filename or "").replace("\\", "/")).name
            return _encoded(escaped(name)[:NAME_LENGTH] or "image", await files[0].read())
    except (ValueError, LookupError):  # a character set that does not exist, or does not fit
        raise HTTPException(400, "the form is damaged.") from None


def _encoded(name: str, content: bytes) -> EncodedImage:
    if not content:
        raise HTTPException(400, f"{name} is empty (0 bytes); send an image.")
    return EncodedImage(name, content)


def _limited(receive: Receive, limit: int) -> Receive:
    """`receive` that raises HTTPException once the body has more than `limit` bytes, whatever its header says."""
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise HTTPException(
                413, f"the body has more than {limit:,} bytes, the most that is read.", headers={"Connection": "close"}
            )
        return message

    return receive_limited
