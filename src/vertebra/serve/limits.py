"""What the service takes on at most."""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.errors import VertebraError, in_range, shown

MEGABYTE = 1 << 20
IMAGES_DECODED = 4
"""Images of the largest size that may be decoded at a time; of smaller ones, as many as have as many pixels."""


@dataclass(frozen=True)
class Limits:
    """limits of the service"""

    max_batch: int = 8
    """Most images per forward pass."""
    latency_ms: float = 5.0
    """Latency budget of a batch, in milliseconds: longest time that an image waits for others."""
    streams: int = 0
    """Most batches that are computed at a time; 0 is one per core of a CPU, up to 4, and one on a GPU."""
    max_body_mb: float = 32.0
    """Largest body of a request, in megabytes."""
    max_pixels: int = 50_000_000
    """Most pixels of an image; larger ones are refused before they are decoded."""
    max_in_flight: int = 64
    """Most requests in flight; further ones are answered 503 at once."""
    timeout: float = 30.0
    """Longest time that a request may take, in seconds; then it is answered 504."""
    allow_urls: tuple[str, ...] = ()
    """Hosts whose images are downloaded, such as images.example.org or images.example.org:8080; default: none."""

    def __post_init__(self) -> None:
        in_range("max_batch", self.max_batch, 1, 4096)
        in_range("latency_ms", self.latency_ms, 0, 60_000)
        in_range("streams", self.streams, 0, 256)
        in_range("max_body_mb", self.max_body_mb, 0.001, 4096)
        in_range("max_pixels", self.max_pixels, 1)
        in_range("max_in_flight", self.max_in_flight, 1, 100_000)
        in_range("timeout", self.timeout, 0.001, 86_400)
        for host in self.allow_urls:
            if not host or {"/", "@", "*"} & set(host) or host != host.strip():
                raise VertebraError(
                    f"allow_urls has {shown(host)}; it takes names of hosts, such as images.example.org."
                )

    @property
    def max_body(self) -> int:
        """In bytes."""
        return int(self.max_body_mb * MEGABYTE)

    @property
    def pixels_in_flight(self) -> int:
        """Most pixels that are decoded at a time."""
        return IMAGES_DECODED * self.max_pixels
