"""Draw docs/images/ from the code: the named architectures of every space (`make docs`)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from nas.drawing.svg import svg
from nas.queries.portraits import of_space

IMAGES = Path(__file__).parent / "images"
OURS = "nas-service"
"""The distribution whose spaces are drawn: the pictures are the same whatever else is installed."""


def pictures() -> dict[str, str]:
    """Return the files by name."""
    return {f"{space}-{name}.svg": svg(of_space(space, name, {}).drawing) for space, name in _named()}


def _named() -> Iterator[tuple[str, str]]:
    for point in distribution(OURS).entry_points.select(group="nas.search_spaces"):
        for name in point.load()().named:
            yield point.name, name


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for name, text in pictures().items():
        (IMAGES / name).write_text(text, encoding="utf-8")
