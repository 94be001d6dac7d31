"""A figure of matplotlib, which is an extra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def empty_figure(size: tuple[float, float], instead: str) -> Figure:
    """Return an empty figure.

    Args:
        size: width and height in inches.
        instead: what a user without matplotlib can do else.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            f"This picture needs matplotlib: run `pip install 'nas-service[plot]'`, or {instead}."
        ) from None
    return Figure(figsize=size)
