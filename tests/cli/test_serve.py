"""`accord serve` as people start it: a set-up link, one line for what is wrong, a clean Ctrl-C."""

from __future__ import annotations

import re
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from accord.ledger import Ledger
from accord.ledger.schema import VERSION_TABLE
from accord.web.server import address_for

RUN = "from accord.cli import main; main()"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(folder: Path, *arguments: str, code: str = RUN) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, "serve", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A server that has said that it serves, and what it said."""
    process, said = start(folder, *arguments), []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            said.append(line.rstrip())
            if "Ctrl-C" in line:
                break
        yield process, said
    finally:
        process.kill()
        process.communicate()


def test_first_run_prints_a_link_that_works_and_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path, "--port", str(port)) as (process, said):
        (link,) = re.findall(r"http://\S+/setup/\S+", "\n".join(said))
        assert said[-1] == f"Accord serves ledger.sqlite at http://127.0.0.1:{port} (Ctrl-C stops it)"
        with urllib.request.urlopen(link) as response:
            assert response.status == 200
            assert "default-src 'none'" in response.headers["content-security-policy"]
            assert "server" not in response.headers
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "Accord stopped\n", "")
    with Ledger.open(tmp_path / "ledger.sqlite", create=False) as ledger:
        assert ledger.verify().ok


def test_serving_imports_nothing_heavy(tmp_path: Path) -> None:
    """What takes long to start stands where it is first needed."""
    code = (
        "import sys, uvicorn\n"
        "def run(self, sockets=None):\n"
        "    self.config.load()\n"
        "    print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))\n"
        f"uvicorn.Server.run = run\n{RUN}"
    )
    out, err = start(tmp_path, "--port", str(free_port()), code=code).communicate(timeout=120)
    assert err == ""
    loaded = set(out.partition("LOADED ")[2].split())
    assert {"accord", "fastapi", "sqlalchemy"} <= loaded
    assert not loaded & {"torch", "transformers", "peft", "accelerate", "datasets", "pyarrow"}
    assert not loaded & {"pandas", "scipy", "matplotlib"}


def refused(folder: Path, *arguments: str) -> str:
    """The one line on stderr of a server that did not start."""
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("accord: ") and err.count("\n") == 1, err
    return err


def test_a_port_that_is_taken_is_one_line_and_leaves_no_file(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port}: Address already in use" in refused(tmp_path, "--port", str(port))
    assert not (tmp_path / "ledger.sqlite").exists()


def test_a_ledger_of_a_newer_accord_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "newer.sqlite"
    Ledger.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    connection.close()
    said = refused(tmp_path, "--db", str(path), "--port", str(free_port()))
    assert "schema version 9999" in said and "pip install --upgrade" in said


@pytest.mark.parametrize("url", ["feedback.example.org", "https://", "ftp://x.org", "https://x.org/accord"])
def test_a_public_url_is_a_scheme_and_a_name(tmp_path: Path, url: str) -> None:
    from accord.errors import ConfigError

    with pytest.raises(ConfigError, match=r"--public-url .*no path"):
        address_for("127.0.0.1", 8000, url)


def test_the_names_by_which_an_app_is_reached() -> None:
    here = {"127.0.0.1:8000", "localhost:8000", "[::1]:8000"}
    assert address_for("127.0.0.1", 8000, "").hosts == here
    assert address_for("::1", 8000, "").hosts == here
    assert here < address_for("0.0.0.0", 8000, "").hosts
    assert "localhost" in address_for("localhost", 80, "").hosts
    assert address_for("Raters.lan", 8000, "").hosts == {"raters.lan:8000"}
    public = address_for("127.0.0.1", 8000, "https://Feedback.example.org/")
    assert public.hosts == {"feedback.example.org"} and public.secure
    assert public.cookie("session").startswith("__Host-")
    assert not address_for("127.0.0.1", 8000, "http://raters.lan:8000").secure
