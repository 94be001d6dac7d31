"""The server: where it listens, who may ask, and until when."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import NamedTuple
from urllib.parse import urlsplit

from nas.errors import ConfigError
from nas.storage.store import Store

PACKAGES = ("starlette", "uvicorn", "jinja2", "plotly")
"""What the extra `web` installs."""


class Served(NamedTuple):
    """Where pages are: the prefix of their paths, and the origin that a proxy gives them, if it is known."""

    prefix: str
    public: str | None


def place(root_path: str) -> Served:
    """Read `/nas`, or the whole address under which a proxy serves the pages, as `https://example.org/nas`.

    Raises:
        ConfigError: it is neither.
    """
    parts = urlsplit(root_path)
    path = parts.path.rstrip("/")
    origin = f"{parts.scheme}://{parts.netloc}" if parts.netloc else None
    good = not (parts.query or parts.fragment) and all(c.isalnum() or c in "/-._~" for c in path)
    good &= (path == "" or path.startswith("/")) and "//" not in path
    good &= parts.scheme in (("http", "https") if origin else ("",))
    if not good:
        raise ConfigError(f"--root-path {root_path}: expected a path such as /nas, or https://HOST/nas.")
    return Served(path, origin)


def check_installed() -> None:
    """Refuse to serve without the packages that pages need.

    Raises:
        ConfigError: one is not installed.
    """
    lacking = [name for name in PACKAGES if find_spec(name) is None]
    if lacking:
        raise ConfigError(f"`nas serve` needs {', '.join(lacking)}: run `pip install 'nas-service[web]'`.")


def serve(
    store: Store,
    say: Callable[[str], None],
    *,
    host: str,
    port: int,
    token: str | None,
    root_path: str,
    control: bool,
    db: str | None,
) -> None:
    """Serve the pages of a database until the process is interrupted.

    Args:
        store: of the database.
        say: told the address.
        host: address to listen at.
        port: 0 stands for a free one.
        token: that visitors need; None: one is made where other machines can reach the host, else none is
            needed.
        root_path: as `place` reads it.
        control: whether pages may ask a search to stop.
        db: the database as commands name it; None: the one that they ask anyway.

    Raises:
        ConfigError: nothing can listen there, or a package is missing.
    """
    check_installed()
    import uvicorn

    from nas.web.guard import LOCAL, rules
    from nas.web.site import Site

    prefix, public = place(root_path)
    if token is None and host not in LOCAL:
        token = secrets.token_urlsafe(24)
    with listening(host, port) as listener:
        bound = listener.getsockname()[1]
        allowed = rules(
            host, names=[socket.gethostname()], token=token, prefix=prefix, public=public, port=bound
        )
        site = Site(store, db=db, prefix=prefix, control=control)
        config = uvicorn.Config(
            site.app(allowed),
            log_level="warning",
            access_log=False,  # addresses may have the token
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
        )
        say(f"Serving at {link(host, bound, prefix, public, token)} - end with Ctrl-C.")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigError: the host is none of this machine, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        why, *_ = (error.strerror or str(error)).split(" (while")
        raise ConfigError(
            f"--host {host} --port {port}: {why}. Give an address of this machine and a free port."
        ) from None


def link(host: str, port: int, prefix: str, public: str | None, token: str | None) -> str:
    """Return the address to open in a browser."""
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    origin = public or f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
    return f"{origin}{prefix}/" + (f"?token={token}" if token else "")
