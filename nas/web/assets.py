"""Scripts and style sheets: ours, and plotly's out of its wheel."""

from __future__ import annotations

import importlib.metadata
import re
from importlib.util import find_spec
from pathlib import Path

from starlette.responses import FileResponse, Response

from nas.errors import NotFound

STATIC = Path(__file__).parent / "static"

PLOTLY = "plotly.min.js"

ASSETS = ("live.js", "style.css", "plotly.css", "icon.svg")


def version() -> str | None:
    """Return the version of plotly; None: it is not installed."""
    return importlib.metadata.version("plotly") if find_spec("plotly") else None


def response(file: str) -> Response:
    """Return a file; its address changes with its version.

    Raises:
        NotFound: there is none of this name.
    """
    path = _plotly() if file == PLOTLY else None
    if path is None and file in ASSETS:
        path = STATIC / file
    if path is None:
        raise NotFound(f"There is no file '{file}'.")
    found = FileResponse(path)
    found.headers["Cache-Control"] = "private, max-age=31536000, immutable"
    return found


def styled_by_plotly() -> list[str]:
    """Return the ids of the style sheets that plotly adds to a page where it does not find them.

    They are for maps, and the policy forbids them: a page that has such ids is left alone.
    """
    file = _plotly()
    text = "" if file is None else file.read_text(encoding="utf-8")
    return re.findall(r'if\(!document\.getElementById\("([0-9a-f]{64})"\)\)', text)


def _plotly() -> Path | None:
    """Return the file of plotly's JavaScript; None: it is not installed."""
    spec = find_spec("plotly")
    places = [] if spec is None else spec.submodule_search_locations or []
    return next((file for place in places if (file := Path(place, "package_data", PLOTLY)).is_file()), None)
