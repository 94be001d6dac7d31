"""Neural architecture search for few-shot learning, as a service.

The package imports nothing heavy: `import nas` costs no torch, no ray and no SQL.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from nas.export import Loaded

__version__ = version("nas-service")
__all__ = ["__version__", "load"]


def load(path: str | Path) -> Loaded:
    """Load what `nas export` wrote to a `.pt` or `.json` file; no database is needed.

    `.learner` takes an `Episode` and returns the predictions of its queries, `.network` a batch of inputs and
    returns their features, `.description` says what it is and what it scored.

    Raises:
        NotFound: no such file.
        ConfigError: the file's suffix is another.
        PluginError: the plugins that it was built from are not installed, or have changed.
        Unreadable: the file is damaged, of another version, or its weights do not fit.
    """
    from nas.export import load

    return load(path)
