"""Streams of network cameras and servers: RTSP, RTMP and others that FFmpeg reads."""

from __future__ import annotations

from collections.abc import Iterator

from vertebra.predict import sources
from vertebra.predict.sources.urls import public

PRIORITY = 30
DESCRIPTION = "an rtsp://, rtmp://, udp:// or srt:// stream"
IN_LISTS = True
SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "srt")
SECONDS = 10
"""Longest time without an answer."""


def recognise(word: str) -> bool:
    return word.partition("://")[0].lower() in SCHEMES


def expand(word: str) -> Iterator[sources.Source]:
    arguments = {"protocols": ",".join((*SCHEMES, "tcp", "tls")), "timeout": SECONDS}
    if word.lower().startswith("rtsp"):
        arguments["options"] = {"rtsp_transport": "tcp"}  # over UDP, frames arrive damaged
    yield sources.VideoSource(public(word), word, live=True, arguments=arguments)
