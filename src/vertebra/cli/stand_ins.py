"""Help at once: stand-ins for the libraries that take seconds to import.

The options of a method are a dataclass beside the networks that it describes. To print them, its module is imported
with empty classes in place of torch's; nothing is computed with these, and nothing of them is left afterwards.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

HEAVY = ("torch", "torchvision", "lightning", "torchmetrics", "faster_coco_eval", "safetensors")
"""Libraries that only computing needs."""


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Imports in the block take stand-ins for HEAVY; without effect once torch is imported."""
    if "torch" in sys.modules:
        yield
        return
    before = set(sys.modules)
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in (*HEAVY, "vertebra"):
                del sys.modules[name]
                parent, _, last = name.rpartition(".")
                if parent in before:
                    delattr(sys.modules[parent], last)


class _Finder(MetaPathFinder, Loader):
    """Finds HEAVY and all modules in them."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in HEAVY else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return _stand_in(name)


class _StandIn(type):
    """A class with every attribute and item; calling it gives itself, or the function that it decorates."""

    def __getattr__(cls, name: str) -> Any:
        return _stand_in(name)

    def __getitem__(cls, _: Any) -> Any:
        return cls

    def __iter__(cls) -> Iterator[Any]:
        return iter(())

    def __call__(cls, *arguments: Any, **_: Any) -> Any:
        return arguments[0] if len(arguments) == 1 and callable(arguments[0]) else cls


def _stand_in(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _StandIn(name, (), {})
