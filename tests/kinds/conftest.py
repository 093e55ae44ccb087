"""What the tests of kinds share."""

import sys
from pathlib import Path

import pytest

from vertebra import kinds


@pytest.fixture
def number_kind(monkeypatch):
    """A kind beyond those of the package, which is one short file."""
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(Path(__file__).parent / "kinds")])
    yield "number"
    sys.modules.pop("vertebra.kinds.number", None)
    vars(kinds).pop("number", None)
