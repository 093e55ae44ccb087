"""What the service counts, in Prometheus' text format."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    exposition,
    generate_latest,
)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper ends of the intervals in which requests are counted by the time they take."""
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
"""The same of the images in a batch."""
CONTENT_TYPE = exposition.CONTENT_TYPE_LATEST


class ServiceMetrics:
    """The metrics of one app."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "vertebra_requests", "Requests answered, by endpoint and status.", ["endpoint", "status"], registry=registry
        )
        self.seconds = Histogram(
            "vertebra_request_seconds",
            "Time from a request to the end of its answer.",
            ["endpoint"],
            buckets=SECONDS,
            registry=registry,
        )
        self.failures = Counter(
            "vertebra_failures", "Requests for a prediction without one.", ["model", "status"], registry=registry
        )
        self.in_flight = Gauge("vertebra_requests_in_flight", "Requests for a prediction in flight.", registry=registry)
        self.batches = Histogram(
            "vertebra_batch_size", "Images per forward pass.", ["model"], buckets=BATCHES, registry=registry
        )
        self.queue = Gauge("vertebra_queue_length", "Images that wait for the model.", ["model"], registry=registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Measured:
    """ASGI middleware: counts the requests by endpoint and status, and measures their time."""

    def __init__(self, app: Any, metrics: ServiceMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, start = 500, time.perf_counter()

        async def watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            # The name of the function: paths are as many as requests may invent.
            endpoint = getattr(scope.get("endpoint"), "__name__", "other")
            self.metrics.requests.labels(endpoint, status).inc()
            self.metrics.seconds.labels(endpoint).observe(time.perf_counter() - start)
