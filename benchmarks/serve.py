"""`vertebra serve` beside LitServe: the same model, the same clients, taking turns.

    python benchmarks/serve.py --clients 32 --seconds 60
    python benchmarks/serve.py --engine auto           # the fastest engine of this machine
    python benchmarks/serve.py --requests 20000        # Vertebra alone: does its memory grow?

Every client is a thread of one process that posts one JPEG file again and again over a connection of its own. All
services run in a process of their own, load the same checkpoint with `vertebra.load`, and batch up to 8 images within
5 ms. LitServe serves the model as it was trained, and also folded as Vertebra folds it. Where LitServe is not
installed, Vertebra runs alone.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

import vertebra
from vertebra.engine import checkpoint
from vertebra.structures import Preprocess

try:
    import litserve
except ImportError:
    litserve = None

MAX_BATCH, LATENCY_MS = 8, 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60, help="of each turn")
    parser.add_argument("--turns", type=int, default=1, help="of each service")
    parser.add_argument("--engine", default="folded", help="of Vertebra; LitServe serves eager and folded models")
    parser.add_argument("--precision", default="32-true", help="of Vertebra; LitServe computes in float32")
    parser.add_argument("--requests", type=int, default=0, help="in place of turns: memory over so many requests")
    parser.add_argument("--litserve", help=argparse.SUPPRESS)  # the process of LitServe: the checkpoint
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.litserve:
        serve_with_litserve(options.litserve, options.port, options.engine)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / options.backbone / "best.safetensors"
        torch.manual_seed(0)
        preprocess = Preprocess((options.size, options.size))
        task = vertebra.create("classification", backbone=options.backbone, classes=1000, preprocess=preprocess)
        checkpoint.save(task, path)
        body = photo(options.size)
        services = {"vertebra": [sys.executable, "-m", "vertebra", "serve", str(path), "--device=cpu"]}
        services["vertebra"] += [f"--engine={options.engine}", f"--precision={options.precision}"]
        services["vertebra"] += [f"--max_batch={MAX_BATCH}", f"--latency_ms={LATENCY_MS}", "--max_in_flight=1000"]
        if litserve and not options.requests:
            for engine in ("eager", "folded"):
                services[f"litserve, {engine}"] = [sys.executable, __file__, f"--litserve={path}", f"--engine={engine}"]
        print(f"{options.backbone} at {options.size}, {options.clients} clients, {torch.get_num_threads()} threads\n")
        if options.requests:
            with running(services["vertebra"]) as (port, process):
                print_memory(port, process, body, options)
            return
        print("| service | requests | failed | images/s | p50, ms | p99, ms | CPU per image, ms |")
        print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
        for _ in range(options.turns):
            for name, command in services.items():
                with running(command) as (port, process):
                    load(port, body, options.clients, seconds=min(5, options.seconds))  # warm
                    used, start = cpu_seconds(process), time.perf_counter()
                    times, failed = load(port, body, options.clients, seconds=options.seconds)
                    elapsed, used = time.perf_counter() - start, cpu_seconds(process) - used
                if len(times) < 2:
                    raise SystemExit(f"{name} did not answer")
                cuts = statistics.quantiles(times, n=100)
                figures = f"{len(times) / elapsed:.1f} | {1e3 * cuts[49]:.0f} | {1e3 * cuts[98]:.0f}"
                print(f"| {name} | {len(times)} | {failed} | {figures} | {1e3 * used / len(times):.0f} |", flush=True)


def cpu_seconds(process: subprocess.Popen) -> float:
    """Of a service so far, with the processes that it started: on a busy machine it says more than the time."""
    parent = psutil.Process(process.pid)
    times = [member.cpu_times() for member in (parent, *parent.children(recursive=True))]
    return sum(entry.user + entry.system for entry in times)


def print_memory(port: int, process: subprocess.Popen, body: bytes, options: argparse.Namespace) -> None:
    """The resident memory after each tenth of the requests."""
    print("| requests | failed | resident, MiB |\n|---:|---:|---:|")
    total = 0
    for _ in range(11):  # the first tenth fills the caches
        times, failed = load(port, body, options.clients, requests=options.requests // 10)
        total += len(times)
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        print(f"| {total} | {failed} | {pages * 4096 / 2**20:.0f} |", flush=True)


def photo(size: int) -> bytes:
    """A JPEG file, half as large again as the input."""
    noise = np.random.default_rng(0).integers(0, 255, (size // 8, size // 8, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).resize((size * 3 // 2, size * 3 // 2), Image.Resampling.BICUBIC).save(content, "JPEG")
    return content.getvalue()


def load(
    port: int, body: bytes, clients: int, *, seconds: float = 1e9, requests: int = 10**9
) -> tuple[list[float], int]:
    """The seconds that each answered request took, and the number of those that failed."""
    times: list[float] = []
    failed = [0]
    end = time.perf_counter() + seconds
    head = (
        b'--x\r\nContent-Disposition: form-data; name="request"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    )
    form, headers = head + body + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.perf_counter() < end and len(times) < requests:
            start = time.perf_counter()
            try:
                connection.request("POST", "/predict", form, headers)
                response = connection.getresponse()
                response.read()
                good = response.status == 200
            except (OSError, http.client.HTTPException):
                connection.close()
                good = False
            if good:
                times.append(time.perf_counter() - start)
            else:
                failed[0] += 1

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, failed[0]


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[tuple[int, subprocess.Popen]]:
    """A service that answers, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([*command, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 600  # which the measuring of engines may take
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    break
            time.sleep(0.5)
        yield port, process
    finally:
        members = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(60)
        for member in members:  # LitServe leaves its own behind
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


if litserve:

    class Classifier(litserve.LitAPI):  # at the top, as other processes import it
        path = engine = ""

        def setup(self, device: str) -> None:
            self.predictor = vertebra.load(self.path, device="cpu", engine=self.engine)

        def decode_request(self, request):
            return Image.open(request["request"].file).convert("RGB")

        def predict(self, images):
            return self.predictor.predict(images, batch_size=len(images))

        def encode_response(self, output):
            return output.to_dict()


def serve_with_litserve(path: str, port: int, engine: str) -> None:
    api = Classifier(max_batch_size=MAX_BATCH, batch_timeout=LATENCY_MS / 1000)
    api.path, api.engine = path, engine
    litserve.LitServer(api, accelerator="cpu").run(port=port, log_level="error", generate_client_file=False)


if __name__ == "__main__":
    main()
