"""Checkpoints appear whole or not at all, and damage is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from accord.errors import CheckpointError
from accord.training import checkpoint
from accord.training.checkpoint import load_checkpoint, save_checkpoint, steps, write_atomically

TENSORS = {"parameter/a": torch.arange(6.0).reshape(2, 3), "rng": torch.get_rng_state()}


def save(folder: Path, step: int) -> None:
    save_checkpoint(folder, step, TENSORS, {"kl_coef": 0.1 + 0.2}, "run-1")


def test_what_was_saved_comes_back_exactly(tmp_path: Path) -> None:
    save(tmp_path, 7)
    found = load_checkpoint(tmp_path, "run-1")
    assert found is not None
    assert found.step == 7
    assert found.extra == {"kl_coef": 0.1 + 0.2}
    assert all(torch.equal(found.tensors[k], v) for k, v in TENSORS.items())


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 30, 4):
        save(tmp_path, step)
    assert steps(tmp_path) == [4, 30]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "nowhere", "run-1") is None


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="other settings, data or model"):
        load_checkpoint(tmp_path, "run-2")


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_damage_is_noticed(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1)
    path = tmp_path / "step-000001" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x7F
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"step-000001: .*(damaged|other settings)"):
        load_checkpoint(tmp_path, "run-1")


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"No space left.*make room and run the command again"):
        save(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def test_text_is_the_old_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, "old")

    def fails(self: Path, target: Path) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="power cut"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
