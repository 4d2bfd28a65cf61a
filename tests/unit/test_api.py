"""`import accord`: every name is there, settings are checked, and results come back as dicts."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import accord
from accord import config
from accord.data.groups import write_groups
from accord.errors import ConfigError
from accord.records import Group, Prompt


def test_every_public_name_is_there_and_documented() -> None:
    for name in accord.__all__:
        assert getattr(accord, name).__doc__, name
    assert set(accord.__all__) <= set(dir(accord))
    assert accord.Prompt is Prompt


def test_lazy_names_and_names_for_type_checkers_are_the_same() -> None:
    tree = ast.parse(Path(accord.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    declared = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == accord._LAZY


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'dppo'"):
        _ = accord.dppo


def test_settings_are_checked_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sft\.epochz: unknown setting; did you mean 'epochs'\?"):
        accord.sft(model="m", data="d", out=tmp_path, epochz=1)
    with pytest.raises(ConfigError, match=r"ppo\.kl\.mode"):
        accord.ppo(model="m", reward_model="r", prompts="p", out=tmp_path, kl={"mode": "loose"})


@pytest.mark.parametrize("name", sorted(accord.STAGES))
def test_a_stage_gets_its_settings_and_returns_its_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    schema, module = accord.STAGES[name]
    seen: list[Any] = []

    def run(settings: Any, console: Any) -> dict[str, Any]:
        seen.append((settings, console.quiet))
        return {"model": "somewhere"}

    monkeypatch.setitem(sys.modules, module, SimpleNamespace(run=run))
    required = {n: "x" for n, f in getattr(config, schema).model_fields.items() if f.is_required()}
    required["out"] = Path("here") / "there"  # type: ignore[assignment]
    attribute = name.replace("-", "_").replace("++", "_plus_plus")
    function = accord.evaluate if name == "eval" else getattr(accord, attribute)
    assert function(quiet=True, seed=7, **required) == {"model": "somewhere"}
    ((settings, quiet),) = seen
    assert isinstance(settings, getattr(config, schema))
    assert (settings.seed, settings.out, quiet) == (7, Path("here/there"), True)


def test_a_path_will_do_where_a_name_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules,
        "accord.stages.sample",
        SimpleNamespace(run=lambda settings, _: {"model": settings.model}),
    )
    assert accord.sample(model=Path("a") / "b", prompts="p", out="o") == {"model": str(Path("a") / "b")}


def test_run_lays_settings_over_the_file_and_returns_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[config.RunConfig] = []

    def run(settings: config.RunConfig, console: Any) -> Path:
        seen.append(settings)
        (tmp_path / "report.json").write_text('{"accepted": true}')
        return tmp_path / "report.html"

    monkeypatch.setitem(sys.modules, "accord.loop.rounds", SimpleNamespace(run=run))
    file = tmp_path / "mine.yaml"
    file.write_text("rounds: 2\nseed: 1\nppo: {k: 2, iterations: 3}\n")
    assert accord.run(file, seed=5, ppo={"k": 8}, eval={"raters": 1}) == {"accepted": True}
    accord.run()
    mine, quickstart = seen
    assert (mine.rounds, mine.seed, mine.ppo, mine.eval) == (2, 5, {"k": 8, "iterations": 3}, {"raters": 1})
    assert quickstart.scenario == "shop" and quickstart.ppo["iterations"] > 1
    with pytest.raises(ConfigError, match="unknown setting"):
        accord.run(file, sed=5)


def test_read_samples(tmp_path: Path) -> None:
    groups = [Group.of(Prompt.of("Hi"), "Hello.", "Good day.")]
    write_groups(tmp_path / "samples.jsonl", groups)
    assert accord.read_samples(str(tmp_path / "samples.jsonl")) == groups
    assert json.loads((tmp_path / "samples.jsonl").read_text())["completions"][1]["text"] == "Good day."
