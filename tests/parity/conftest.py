"""Models of these tests are filled from references."""

import functools

import pytest

from vertebra import backbones

ON_META = functools.cache(lambda build, name, *options: build(name, dict(options)))


@pytest.fixture(autouse=True)
def one_build_of_each_backbone(monkeypatch, no_initialisation):
    """Files are compared with many backbones on the meta device, of which only names and shapes are read."""
    build = backbones._on_meta

    def built(name, options):
        known = options in ({}, {"level_norms": True})
        return ON_META(build, name, *options.items()) if known else build(name, options)

    monkeypatch.setattr(backbones, "_on_meta", built)
