"""Running commands in this process, on a tiny random model in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from accord.cli import main
from tiny import tiny_llama, tiny_tokenizer


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as strict JSON."""

        def refuse(word: str) -> NoReturn:
            raise AssertionError(f"{word} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


Accord = Callable[..., Outcome]


@pytest.fixture
def accord(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Accord:
    monkeypatch.setenv("COLUMNS", "400")  # nothing wraps

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        code = stop.value.code
        said = capsys.readouterr()
        return Outcome(code if isinstance(code, int) else 1, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_llama().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def demonstrations(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Say {word}.", "completion": f"{word}!"} for word in ("yes", "no", "two", "red")]
    return write_rows(tmp_path / "demonstrations.jsonl", rows)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "prompts.jsonl", [{"prompt": "Say yes."}, {"prompt": "Say no."}])


@pytest.fixture
def preferences(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Say {i}.", "chosen": f"{i}!", "rejected": "I will not."} for i in range(6)]
    return write_rows(tmp_path / "preferences.jsonl", rows)
