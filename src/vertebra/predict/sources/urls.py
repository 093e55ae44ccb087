"""Images and videos on the web."""

from __future__ import annotations

import http.client
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import vertebra
from vertebra.errors import first_line
from vertebra.images import SUFFIXES, UnreadableImage
from vertebra.predict import sources, video

PRIORITY = 40
DESCRIPTION = "an http:// or https:// URL"
IN_LISTS = True
PLAYLISTS = (".m3u8", ".mpd")
"""Endings of the files that list the parts of a video."""
SECONDS = 15
"""Longest time without an answer."""
MAX_SECONDS = 120
"""Longest time that the download of an image may take."""
MAX_BYTES = 256 << 20
"""Of an image; videos are read as they come."""
PROTOCOLS = "http,https,tcp,tls,httpproxy,hls,crypto"


class OnlineImage(sources.ImageSource):
    """An image that is downloaded when it is needed; `image` is its URL."""

    def fetch(self) -> sources.ImageSource:
        return sources.EncodedImage(self.name, _download(self.image, self.name))


def recognise(word: str) -> bool:
    return word.lower().startswith(("http://", "https://"))


def expand(word: str) -> Iterator[sources.Source]:
    """An image or a video by the ending of the URL; without a known one, the server is asked."""
    name = public(word)
    suffix = PurePosixPath(unquote(re.split(r"[?#]", word)[0])).suffix.lower()
    kind = (
        "image" if suffix in SUFFIXES else "video" if suffix in (*video.SUFFIXES, *PLAYLISTS) else _content_type(word)
    )
    if kind.startswith(("video", "multipart", "application/vnd.apple.mpegurl", "application/x-mpegurl")):
        arguments: dict[str, Any] = {"protocols": PROTOCOLS, "timeout": SECONDS}
        yield sources.VideoSource(name, word, live=kind.startswith("multipart"), arguments=arguments)
    else:
        yield OnlineImage(name, word)


def public(url: str) -> str:
    """The URL without the user and password that it may have, to be printed and written to files."""
    scheme, mark, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{mark}{place.rpartition('@')[2]}{slash}{path}"


def _content_type(url: str) -> str:
    """What the server says it is, such as `image/jpeg`; empty if it cannot be asked, which the download will tell."""
    try:
        with _open(url, url) as response:
            return response.headers.get_content_type()
    except UnreadableImage:
        return ""


def _download(url: str, name: str) -> bytes:
    with _open(url, name) as response:
        kind = response.headers.get_content_type()
        if not kind.startswith("image/") and kind not in ("application/octet-stream", "binary/octet-stream"):
            raise UnreadableImage(f"{name}: this is no image, but {kind[:60]}.")
        content, end = bytearray(), time.monotonic() + MAX_SECONDS
        while chunk := response.read1(1 << 20):
            content += chunk
            if len(content) > MAX_BYTES:
                raise UnreadableImage(f"{name}: has more than {MAX_BYTES:,} bytes, the most that is downloaded.")
            if time.monotonic() > end:
                raise UnreadableImage(f"{name}: takes more than {MAX_SECONDS} seconds to download.")
        return bytes(content)


@contextmanager
def _open(url: str, name: str) -> Iterator[Any]:
    """The response to a request; all that can go wrong until its end becomes UnreadableImage."""
    opener = urllib.request.OpenerDirector()  # not `build_opener`, whose openers follow redirections to FTP
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    try:
        request = urllib.request.Request(url, headers={"User-Agent": f"vertebra/{vertebra.__version__}"})
        with opener.open(request, timeout=SECONDS) as response:
            yield response
    except urllib.error.HTTPError as error:
        private = ": it is private, or needs a password" if error.code in (401, 403) else ""
        raise UnreadableImage(f"{name}: the server answers {error.code} ({error.reason}){private}.") from error
    except TimeoutError as error:
        raise UnreadableImage(f"{name}: no answer within {SECONDS} seconds.") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise UnreadableImage(f"{name}: no answer within {SECONDS} seconds.") from error
        offline = "; is this machine offline?" if isinstance(error.reason, socket.gaierror) else ""
        reason = getattr(error.reason, "strerror", None) or str(error.reason)
        raise UnreadableImage(f"{name}: cannot be reached ({reason}{offline}).") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, UnreadableImage):
            raise
        raise UnreadableImage(f"{name}: cannot be downloaded ({first_line(error)}).") from error
