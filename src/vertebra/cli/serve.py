"""`vertebra serve MODEL...`: trained models over HTTP, and a web page to try them."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from vertebra.cli.parsing import parse, parser
from vertebra.errors import VertebraError, escaped, in_range, shown
from vertebra.files import expanded
from vertebra.options import as_tuples
from vertebra.serve.limits import Limits

LIBRARIES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
TOKEN = "VERTEBRA_TOKEN"
"""Environment variable that holds the token where --token is not given: other users of a machine see its commands."""
GRACE = 5
"""Seconds beyond --timeout that requests in flight have when the service is stopped."""


@dataclass
class Options:
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every one of this machine."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    token: str | None = None
    """Token that requests must have in the header `Authorization: Bearer TOKEN`; default: the environment variable
    VERTEBRA_TOKEN, or none."""
    detector: str | None = None
    """Checkpoint of a detector, which finds the objects whose keypoints are predicted; for models of poses."""
    refine: str | None = None
    """Checkpoint of `vertebra train refinement`, by which the masks are refined; for models of masks."""
    model: dict[str, Any] = field(default_factory=dict)
    """Options of the model by which predictions are made of its outputs, in place of those that it was trained with,
    such as --model.nms_threshold=0.6 of a detector."""
    device: str | None = None
    """`cpu`, `cuda`, `mps`, one GPU such as cuda:1, or `auto`: a GPU if there is one, else the CPU; default: auto."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "int8"] = "32-true"
    """Number format of the computation; bf16-mixed is faster on processors that have such instructions; int8 is for
    engines that run the model exported, and for auto."""
    engine: Literal["eager", "folded", "compiled", "frozen", "onnx", "openvino", "auto"] | None = None
    """What computes, as for `vertebra predict`; `auto` is the fastest on this machine; default: folded."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("serve", "Serves trained models over HTTP, with a web page.")
    arguments.add_argument("models", nargs="+", help="best.safetensors, or the run folder that holds it; several too.")
    arguments.add_class_arguments(Options)
    arguments.add_class_arguments(Limits)
    options = parse(arguments, argv)
    limits = Limits(**{field.name: as_tuples(getattr(options, field.name)) for field in fields(Limits)})
    in_range("port", options.port, 0, 65535)
    names = _names(options.models)
    for library in LIBRARIES:
        if importlib.util.find_spec(library) is None:
            raise VertebraError(f"serving needs {library}, which is not installed: pip install vertebra[serve]")

    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it logs every damaged form
    import uvicorn

    from vertebra.predict import Predictor
    from vertebra.serve.app import create_app

    models = {
        name: Predictor(
            path,
            device=options.device,
            precision=options.precision,
            engine=options.engine,
            refine=options.refine,
            detector=options.detector,
            model=options.model,
        )
        for name, path in names.items()
    }
    token = options.token or os.environ.get(TOKEN)
    if token == "":
        raise VertebraError(f"{TOKEN} is set but empty: give the token that requests must bear, or unset it.")
    app = create_app(models, limits, token=token)
    with _listening(options.host, options.port) as listening:
        host, port = listening.getsockname()[:2]
        place = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        print(f"{', '.join(map(escaped, names))} at {place}; Ctrl-C stops", flush=True)
        config = uvicorn.Config(
            app,
            log_config=None,  # which would close the handlers that other libraries have opened
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=round(limits.timeout) + GRACE,
        )
        uvicorn.Server(config).run(sockets=[listening])


def _names(paths: Sequence[str]) -> dict[str, str]:
    """The models' paths by name: that of the file, or of its folder where the file is called as training calls it."""
    names: dict[str, str] = {}
    for text in paths:
        path = Path(os.path.abspath(expanded(text)))
        name = path.parent.name if path.stem == "best" else path.stem if path.suffix == ".safetensors" else path.name
        if name in names:
            raise VertebraError(f"{names[name]} and {text} would both be called {shown(name)}; rename one of them.")
        names[name] = text
    return names


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise VertebraError(f"cannot listen on port {port} of {host} ({error.strerror or error}).") from None
