"""`accord serve`: the app on a socket, until Ctrl-C."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sqlalchemy import make_url

from accord.errors import ConfigError
from accord.ledger import Ledger
from accord.web.app import make_app, set_up_url
from accord.web.auth import Site
from accord.web.policies import Policies
from accord.web.security import Address

if TYPE_CHECKING:
    import uvicorn

HERE = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")
LAST_SECONDS = 5  # for replies that are under way when the server is stopped


def address_for(host: str, port: int, public_url: str) -> Address:
    """The names by which browsers may reach the app; others are refused (DNS rebinding).

    Raises ConfigError for a public URL that is none.
    """
    if public_url:
        url = urlsplit(public_url)
        if url.scheme not in ("http", "https") or not url.netloc or url.path.strip("/") or url.query:
            raise ConfigError(
                f"--public-url {public_url}: it is https:// and a name, as in https://feedback.example.org; "
                "no path can stand behind it"
            )
        return Address(frozenset({url.netloc.lower()}), secure=url.scheme == "https")
    names = {_in_url(host)}
    if host in HERE or host in EVERYWHERE:
        names |= {_in_url(name) for name in HERE}
    if host in EVERYWHERE:
        names.add(socket.gethostname().lower())
    return Address(frozenset({f"{name}:{port}" for name in names} | (names if port == 80 else set())))


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host.lower()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ConfigError when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except PermissionError:
        raise ConfigError(
            f"--port {port}: only administrators may listen there; choose one over 1023"
        ) from None
    except socket.gaierror as error:
        raise ConfigError(f"--host {host}: {error.strerror}; give an address of this machine") from None
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port}: {error.strerror or error}; is another program listening there? "
            "choose another port"
        ) from None


def _server(config: uvicorn.Config, policies: Policies | None) -> uvicorn.Server:
    """Where it is stopped, whoever waits for a policy is told at once, and the policies' process ends."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if policies is not None:
                threading.Thread(target=policies.close).start()
            super().handle_exit(sig, frame)

    return Server(config)


def serve(
    db: str,
    *,
    host: str,
    port: int,
    public_url: str,
    admin_link: bool,
    say: Callable[[str], None],
    runs: Path | None = None,
    policies: Policies | None = None,
) -> None:
    """Run until Ctrl-C. Raises ConfigError for the address, LedgerError for the ledger."""
    import uvicorn

    address = address_for(host, port, public_url)
    base = public_url.rstrip("/") or f"http://{_in_url('127.0.0.1' if host in EVERYWHERE else host)}:{port}"
    with listen(host, port) as listening, Ledger.open(db) as ledger:
        site = Site(ledger, address, runs=runs, policies=policies)
        if link := set_up_url(site, base, again=admin_link):
            say(f"Set up an administrator's account (the link works once, for a day):\n\n  {link}\n")
        if not public_url and host not in HERE:
            say("Passwords travel unencrypted: put a proxy with HTTPS before this, and give --public-url.")
        shown = make_url(db).render_as_string() if "://" in db else db  # without the password
        say(f"Accord serves {shown} at {base} (Ctrl-C stops it)")
        config = uvicorn.Config(
            make_app(site),
            log_level="warning",
            proxy_headers=bool(public_url),
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=LAST_SECONDS,
        )
        with suppress(KeyboardInterrupt):  # how uvicorn says, when all is done, that Ctrl-C was pressed
            _server(config, policies).run(sockets=[listening])
        if policies is not None:
            policies.close()
        say("Accord stopped")  # also where the shell told its children to ignore Ctrl-C
