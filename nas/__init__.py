"""Neural architecture search for few-shot learning, as a service.

    import nas

    found = nas.search(space="few_shot", controller="evolution", tasks="glyphs", learner="prototypical")
    found.leaderboard()

The functions do what the verbs of the command line do, with the same words. The package imports nothing
heavy: `import nas` costs no torch, no ray and no SQL.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.api import Evaluated, SearchHandle, compare, evaluate, leaderboard, resume, search, show
    from nas.export import load
    from nas.marks import choice, depth, space_of, width

__version__ = version("nas-service")
__all__ = [
    "Evaluated",
    "SearchHandle",
    "__version__",
    "choice",
    "compare",
    "depth",
    "evaluate",
    "leaderboard",
    "load",
    "resume",
    "search",
    "show",
    "space_of",
    "width",
]

_MODULES = {"load": "nas.export", **dict.fromkeys(("choice", "depth", "space_of", "width"), "nas.marks")}
"""Of the functions that are not in `nas.api`."""


def __getattr__(name: str) -> Any:
    """Fetch a function when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'nas' has no attribute '{name}'")
    return getattr(import_module(_MODULES.get(name, "nas.api")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
