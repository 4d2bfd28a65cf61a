"""A real server in a thread, for clients that speak HTTP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from accord.ledger import Ledger
from accord.web.app import make_app
from accord.web.auth import Site
from accord.web.server import address_for
from web.world import CHEAP


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(ledger: Path) -> Iterator[tuple[str, Site]]:
    """The address of a server over the ledger, and its site."""
    port = free_port()
    with Ledger.open(ledger) as opened:
        site = Site(opened, address_for("127.0.0.1", port, ""), hasher=CHEAP)
        config = uvicorn.Config(make_app(site), port=port, log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            while not server.started:
                if not thread.is_alive():
                    raise RuntimeError("the server did not start")
                thread.join(0.01)
            yield f"http://127.0.0.1:{port}", site
        finally:
            server.should_exit = True
            thread.join(10)
