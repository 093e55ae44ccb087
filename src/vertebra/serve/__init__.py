"""The HTTP service: several models, micro-batches over requests, limits, metrics, and a web page."""
