"""A task of the tests: a small network without a backbone."""

DEFAULT = "means"
