"""Who may do what: the guard's rules by themselves."""

from pathlib import Path

import pytest

from impasto.realtime.panel_guard import (
    TOKEN_FORM,
    Asked,
    PanelGuard,
    Refused,
    allowed_hosts,
    kept_token,
    reachable_address,
)

CONTROL, VIEW = "control-token-0123456789", "view-token-0123456789ab"
GUARD = PanelGuard(CONTROL, VIEW, allowed_hosts("127.0.0.1", 8420, ["studio.local"]))
GOOD = {"host": "127.0.0.1:8420", "authorization": f"Bearer {CONTROL}"}


def ask(method: str = "POST", *, need: str = "control", page: bool = False, query: str = "", **headers: str) -> int:
    """The status that a request gets: 200 or the refusal's."""
    named = {name.replace("_", "-"): value for name, value in headers.items() if value}
    try:
        GUARD.check(Asked(method, named, query_token=query, takes_query_token=page), need=need)
    except Refused as exc:
        return exc.status
    return 200


@pytest.mark.parametrize(
    "host",
    ["evil.example:8420", "127.0.0.1.evil.com:8420", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:84200", "localhost", "",
     "127.0.0.1:8420.evil.com", "evil.com#127.0.0.1:8420", "[::]:8420", "2130706433:8420", "localhost.:8420",
     "127.0.0.1:8420@evil.com", "0.0.0.0:8420"],
)  # fmt: skip
def test_a_foreign_host_is_refused(host: str) -> None:
    assert ask(**(GOOD | {"host": host})) == 403


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8420", "localhost:8420", "LOCALHOST:8420", "[::1]:8420", "studio.local:8420"]
)
def test_our_own_names_are_let_in(host: str) -> None:
    assert ask(**(GOOD | {"host": host})) == 200


@pytest.mark.parametrize(
    ("header", "value"),
    [("origin", "http://evil.example"), ("origin", "null"), ("origin", "http://127.0.0.1.evil.com:8420"),
     ("origin", "http://127.0.0.1:9999"), ("origin", "http://localhost:8420"), ("origin", "file://"),
     ("sec_fetch_site", "cross-site"), ("sec_fetch_site", "same-site")],
)  # fmt: skip
def test_another_site_is_refused_whatever_token_it_has(header: str, value: str) -> None:
    assert ask(**(GOOD | {header: value})) == 403
    assert ask("GET", **(GOOD | {header: value})) == 403


def test_a_server_on_all_addresses_answers_to_its_own_number_and_to_no_name() -> None:
    hosts = allowed_hosts("0.0.0.0", 8420)
    assert f"{reachable_address('0.0.0.0')}:8420" in hosts
    assert all(host.split(":")[0].replace(".", "").isdigit() for host in hosts if host[0] not in "l[")
    assert "0.0.0.0:8420" not in hosts


@pytest.mark.parametrize("named", ["studio.lan", "studio.lan:443", "Studio.lan:8443"])
def test_a_tls_proxy_under_a_name(named: str) -> None:
    guard = PanelGuard(CONTROL, VIEW, allowed_hosts("127.0.0.1", 8420, [named]))
    outside = named.lower().removesuffix(":443")  # as browsers write it

    def ask(host: str, origin: str) -> bool:
        headers = {"host": host, "origin": origin, "authorization": f"Bearer {CONTROL}"}
        try:
            guard.check(Asked("POST", headers), need="control")
        except Refused:
            return False
        return True

    assert ask(outside, f"https://{outside}")
    assert ask("127.0.0.1:8420", f"https://{outside}")  # a proxy that writes our address into Host
    assert not ask("127.0.0.1:8420", f"http://{outside}")
    assert not ask("127.0.0.1:8420", f"https://{outside}.evil.example")
    assert not ask("evil.example", f"https://{outside}")
    assert not ask("studio.lan:9000", "https://studio.lan:9000")


def test_port_80_is_left_out() -> None:
    assert {"127.0.0.1", "127.0.0.1:80", "localhost", "[::1]"} <= allowed_hosts("127.0.0.1", 80)
    assert all(":84" in host for host in allowed_hosts("127.0.0.1", 8420))


def test_a_link_opens_the_page_and_nothing_else() -> None:
    followed = {"host": "127.0.0.1:8420", "sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert ask("GET", page=True, query=CONTROL, sec_fetch_dest="document", **followed) == 200
    assert ask("GET", page=True, query=CONTROL, sec_fetch_dest="iframe", **followed) == 403
    assert ask("POST", page=True, query=CONTROL, sec_fetch_dest="document", **followed) == 403
    assert ask("GET", page=False, query=CONTROL, sec_fetch_dest="document", **followed) == 403


def test_tokens() -> None:
    host = {"host": "127.0.0.1:8420"}
    assert ask(**host) == 401
    assert ask(**host, authorization="Bearer wrong") == 401
    assert ask(**host, authorization="Bearer ") == 401
    assert ask(**host, authorization=f"Bearer {VIEW}") == 403
    assert ask("GET", need="view", **host, authorization=f"Bearer {VIEW}") == 200
    assert ask("GET", need="view", page=True, query=VIEW, **host) == 200
    assert ask("GET", query=CONTROL, **host) == 401  # the address is no place for it elsewhere
    assert ask("POST", page=True, query=CONTROL, **host) == 401


def test_the_kept_token_is_private_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "view-token"
    token = kept_token(path)
    assert kept_token(path) == token
    assert path.stat().st_mode & 0o077 == 0
    path.write_text("short\n")
    assert len(kept_token(path)) == 22


def test_a_token_that_cannot_be_kept_holds_for_this_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert TOKEN_FORM.fullmatch(kept_token(tmp_path / "file" / "view-token"))
