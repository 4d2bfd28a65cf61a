"""A real PostgreSQL server for tests, in a temporary folder and reached through a socket there.

Debian's package `postgresql` is enough; where it is absent, these tests are skipped.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

SETTINGS = (
    "fsync=off",  # nobody cuts the power here, and the data are thrown away
    "synchronous_commit=off",
    "full_page_writes=off",
    "listen_addresses=",
    "max_connections=100",
)


def programs() -> Path:
    """Where initdb and pg_ctl are. Skips the test when they are nowhere."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (the extra `postgres`)")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        pytest.skip("PostgreSQL is not installed (on Debian: apt install postgresql)")
    return found[-1].parent if found else Path(on_path or "").resolve().parent


def unprivileged() -> str | None:
    """The user to run the server as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    users = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in users else "nobody"


@contextmanager
def running(settings: Sequence[str] = SETTINGS) -> Iterator[Callable[[], str]]:
    """A function that makes an empty database and gives its URL."""
    bin_folder, user = programs(), unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="accord-pg-", dir="/tmp"))  # a socket's path must be short
    if user is not None:
        shutil.chown(folder, user)

    def call(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(bin_folder / program), *arguments],
            user=user, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stderr}{done.stdout}")

    data = str(folder / "data")
    numbers = itertools.count(1)

    def new_database() -> str:
        name = f"ledger{next(numbers)}"
        call("createdb", "-h", str(folder), "-U", "accord", name)
        return f"postgresql://accord@/{name}?host={folder}"

    try:
        call("initdb", "-D", data, "-U", "accord", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C")
        options = " ".join(f"-c {setting}" for setting in settings)
        call("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", f"{options} -k {folder}", "start")
        try:
            yield new_database
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
