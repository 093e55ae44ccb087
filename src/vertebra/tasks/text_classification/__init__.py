"""Text classification: one class for a text, or for a text and a question."""

DEFAULT = "hierarchical"
