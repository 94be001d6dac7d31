"""Who may ask: checks of each request before a page sees it, and the headers that every answer gets.

A page of another site may make a visitor's browser ask 127.0.0.1, also by a host name of its own that it lets
point there. So the names in `Host` and `Origin` must be this server's, and where others can reach it, a
request needs the token.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of this machine that no other one answers to."""

WILDCARDS = frozenset({"0.0.0.0", "::"})
"""Every address of this machine."""

SAFE = frozenset({"GET", "HEAD"})
"""Methods that change nothing."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "private, no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer, where it has no other ones."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a request has to meet.

    Attributes:
        hosts: names under which pages are served.
        addresses: whether they are served under every numeric address, too.
        token: that a request must have, as a cookie or a bearer; None: none.
        prefix: of all paths, as `/nas`, or nothing.
        public: the origin under which a proxy serves them, as `https://example.org`; None: unknown.
        cookie: the name of the token's.
    """

    hosts: frozenset[str]
    addresses: bool = False
    token: str | None = None
    prefix: str = ""
    public: str | None = None
    cookie: str = "nas_token"

    def host(self, header: str) -> bool:
        """Return whether a `Host` header names this server, under any port."""
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        return name in self.hosts or (self.addresses and _numeric(name))

    def origin(self, header: str, host: str) -> bool:
        """Return whether an `Origin` header is that of our own pages."""
        scheme, _, place = header.partition("://")
        return header == self.public or (scheme in ("http", "https") and place == host)

    def known(self, headers: Headers) -> bool:
        """Return whether a request has the token, if one is asked for."""
        if self.token is None:
            return True
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = [bearer] if kind.lower() == "bearer" else []
        cookies = SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except CookieError:
            return False
        if self.cookie in cookies:
            given.append(cookies[self.cookie].value)
        return any(_equal(one, self.token) for one in given)


class Guard:
    """Lets requests through that meet the rules, to an app that is served below the prefix."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        rules, path = self._rules, scope["path"]
        if rules.prefix and (path == rules.prefix or path.startswith(f"{rules.prefix}/")):
            path = path[len(rules.prefix) :]  # a proxy may pass the prefix on or not
        refused = self._refused(scope, path or "/")
        if refused is not None:
            await refused(scope, receive, answer)
            return
        below = {**scope, "root_path": rules.prefix, "path": f"{rules.prefix}{path or '/'}"}
        await self._app(below, receive, answer)

    def _refused(self, scope: Scope, path: str) -> Response | None:
        """Return the answer to a request that comes no further; None: it may."""
        rules, headers = self._rules, Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not rules.host(hosts[0]):
            return _no("Host", f"This server is not {' or '.join(hosts) or 'without a name'}.", 403)
        origin = headers.get("origin")
        if origin is None and scope["method"] not in SAFE:
            return _no("Origin", "What changes something is asked for by a page of this server alone.", 403)
        if origin is not None and not rules.origin(origin, hosts[0]):
            return _no("Origin", "A page of another site asks.", 403)
        if rules.known(headers):
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        assert rules.token is not None
        if scope["method"] in SAFE and any(_equal(one, rules.token) for one in given):
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            return self._welcome(f"{rules.prefix}{quote(path)}" + (f"?{rest}" if rest else ""))
        return _no("Token", "Open the link that `nas serve` printed: it has the token.", 401)

    def _welcome(self, place: str) -> Response:
        """Return a page that keeps the token as a cookie and leads on.

        A redirection would not do: one that another site began has no such cookie.
        """
        rules = self._rules
        link = escape(place)
        page = HTMLResponse(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>nas</title>'
            f'<meta http-equiv="refresh" content="0; url={link}"><p><a href="{link}">Go on</a>'
        )
        assert rules.token is not None
        page.set_cookie(
            rules.cookie,
            rules.token,
            path=rules.prefix or "/",
            httponly=True,
            samesite="strict",
            secure=(rules.public or "").startswith("https:"),
        )
        return page


def rules(
    host: str, *, names: Iterable[str] = (), token: str | None, prefix: str, public: str | None, port: int
) -> Rules:
    """Return the rules of a server that is bound to a host.

    Args:
        host: an address or a name; `0.0.0.0` and `::` stand for all addresses.
        names: of this machine.
        token: as in `Rules`.
        prefix: as in `Rules`.
        public: as in `Rules`.
        port: that it listens on: the cookies of two servers on one machine must differ.
    """
    hosts = {*LOCAL, host.lower(), *map(str.lower, names)}
    if public is not None and (name := urlsplit(public).hostname):
        hosts.add(name)
    return Rules(
        frozenset(hosts - WILDCARDS), host in WILDCARDS, token, prefix, public, cookie=f"nas_token_{port}"
    )


def _no(what: str, why: str, status: int) -> Response:
    return PlainTextResponse(f"{what}: {why}\n", status)


def _numeric(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _equal(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(errors="surrogateescape"), token.encode())
