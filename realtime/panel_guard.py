"""Who may talk to the panel. Every request passes `PanelGuard.check` before any handler sees it.

Threats, and what meets each:
- a web page elsewhere that posts to, embeds or opens a socket to the panel: Origin, Sec-Fetch-Site, the token,
  no CORS headers, `Cross-Origin-Resource-Policy`, `frame-ancestors 'none'`;
- DNS rebinding (a name of the attacker's that points to 127.0.0.1): the Host allow-list, compared whole;
- another user or program of this machine or network: the token, 128 random bits, compared in constant time;
- a link that changes something when it is opened: nothing changes by GET;
- a leaked address: the panel's token leaves the address bar at once for an HttpOnly, SameSite=Strict cookie; the
  address for OBS holds another token that can only look.
"""

import hmac
import logging
import re
import secrets
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..training.whole_file import whole_file

logger = logging.getLogger(__name__)

Role = Literal["control", "view"]

TOKEN_FORM = re.compile(r"[A-Za-z0-9_-]{22}")
SAFE_METHODS = ("GET", "HEAD")


class Refused(Exception):
    """The request must not be answered."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Asked:
    """The parts of a request that decide; header names in lower case."""

    method: str
    headers: Mapping[str, str]
    query_token: str = ""
    cookie_token: str = ""
    takes_query_token: bool = False
    """True for pages that a person opens by their address."""


@dataclass(frozen=True)
class PanelGuard:
    """The rules, for one address."""

    control_token: str
    view_token: str
    hosts: frozenset[str] = field(default_factory=frozenset)
    """Allowed values of the Host header, lower case, with port."""

    def check(self, asked: Asked, *, need: Role) -> None:
        """Return if the request may go on, else raise `Refused`."""
        host = asked.headers.get("host", "").lower()
        if host not in self.hosts:
            raise Refused(403, f"Host must be one of {', '.join(sorted(self.hosts))}; --allow-host NAME adds one")
        self._check_origin(asked, host)
        role = self._role(asked)
        if role is None:
            raise Refused(401, "token is missing or wrong: open the address that the program printed at its start")
        if need == "control" and role != "control":
            raise Refused(403, "this token may only look")

    def _check_origin(self, asked: Asked, host: str) -> None:
        origin = asked.headers.get("origin")
        # We speak no TLS: https is that of a proxy, which may put another of our names into Host than it has itself.
        own = {f"http://{host}", *(f"https://{name}" for name in self.hosts)}
        if origin is not None and origin.lower() not in own:
            raise Refused(403, "Origin must be the panel itself")
        site = asked.headers.get("sec-fetch-site", "none")
        if site in ("same-origin", "none"):
            return
        # A link that a person follows from elsewhere opens the page; it gets nothing else.
        follows_link = (
            asked.method == "GET"
            and asked.headers.get("sec-fetch-mode") == "navigate"
            and asked.headers.get("sec-fetch-dest") == "document"
            and asked.takes_query_token
        )
        if not follows_link:
            raise Refused(403, "requests from other sites are refused")

    def _role(self, asked: Asked) -> Role | None:
        bearer = asked.headers.get("authorization", "").removeprefix("Bearer ")
        given = [bearer, asked.cookie_token]
        if asked.takes_query_token and asked.method in SAFE_METHODS:
            given.append(asked.query_token)
        if any(_same(token, self.control_token) for token in given):
            return "control"
        if any(_same(token, self.view_token) for token in given):
            return "view"
        return None


def _same(given: str, right: str) -> bool:
    return bool(given) and hmac.compare_digest(given.encode(), right.encode())


def allowed_hosts(address: str, port: int, extra: Iterable[str] = ()) -> frozenset[str]:
    """Host headers for a server on `address`: the loopback names always, the address itself, and what is named.

    Clients leave out port 80, and 443 with TLS: a proxy's name counts with our port, its own and none.
    A server on all addresses answers to this machine's own number as well: numbers cannot be rebound as names can.
    """
    names = {"127.0.0.1", "localhost", "[::1]", reachable_address(address).lower()}
    hosts = {f"{name}:{port}" for name in names} | (names if port == 80 else set())
    for name in map(str.lower, extra):
        hosts |= {name, re.sub(":(80|443)$", "", name)}
        if not re.search(r":\d+$", name):
            hosts.add(f"{name}:{port}")
    return frozenset(hosts)


def reachable_address(address: str) -> str:
    """What others type to reach a server on `address`; this machine's own address where it listens on all."""
    if address in ("0.0.0.0", "::", ""):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks which way out there is (RFC 5737)
                return str(probe.getsockname()[0])
            except OSError:
                return "127.0.0.1"
    return f"[{address}]" if ":" in address else address


def new_token() -> str:
    """128 random bits."""
    return secrets.token_urlsafe(16)


def kept_token(path: Path) -> str:
    """The token of the address that OBS keeps: made once, readable by this user only, replaced if malformed.

    Where it cannot be kept it holds for this run.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
        if TOKEN_FORM.fullmatch(token):
            return token
    except (OSError, UnicodeDecodeError):
        pass  # made anew below
    token = new_token()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.touch(0o600, exist_ok=False)
            part.write_text(token + "\n", encoding="ascii")
    except OSError as exc:
        logger.warning("%s cannot be written (%s): the next run has another address for OBS", path, exc.strerror)
    return token


SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


def content_security_policy(nonce: str) -> str:
    """Only the page's own inline script and style run; it talks to nobody but this server."""
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' blob: data:; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
