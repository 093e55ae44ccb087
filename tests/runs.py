"""What tests read from the folder of a run."""

from pathlib import Path


def history(run: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv."""
    head, *rows = (run / "metrics.csv").read_text().splitlines()
    return [dict(zip(head.split(","), map(float, row.split(",")), strict=True)) for row in rows]
