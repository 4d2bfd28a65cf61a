"""What `reward_model` may name, on one tiny trunk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from accord.config import Lora
from accord.config.base import RewardPart
from accord.data.batches import collate
from accord.errors import AccordError, DataError
from accord.models.heads import ScalarHead
from accord.records import Group, Prompt
from accord.rewards.learned import ADAPTER, TrunkReward
from accord.rewards.scorer import Scores
from accord.stages.common import Bench, open_bench
from accord.stages.scorers import code_hashes, open_reward
from tiny import tiny_llama, tiny_tokenizer

GROUPS = [Group.of(Prompt.of("one"), "abc", "z"), Group.of(Prompt.of("two"), "zzzz")]
FUNCTION = """def count_z(completions, **columns):
    return [c[-1]["content"].count("z") or None for c in completions]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and two reward models on it that differ."""
    home = tmp_path_factory.mktemp("scorers")
    tiny_llama(layers=2).save_pretrained(home / "base")
    tiny_tokenizer().save_pretrained(home / "base")
    for seed, (layers, pooling, size) in enumerate([(1, "last+mean", 64), (None, "last", 32)]):
        bench = open_bench(str(home / "base"), "float32")
        bench.trunk.add(ADAPTER, Lora(r=2), seed=seed, depth=layers)
        with torch.no_grad():
            for parameter in bench.trunk.parameters(ADAPTER).values():
                parameter.add_(0.2 * (seed + 1))
        out = home / f"reward-{seed}" / "model"
        TrunkReward(bench.trunk, ScalarHead(size, seed=seed), pooling, layers).save(out)
        (out / "accord.json").write_text(json.dumps({"stage": "reward", "base": bench.loaded.source}))
    (home / "mine.py").write_text(FUNCTION)
    return home


def bench_of(folder: Path) -> Bench:
    return open_bench(str(folder / "base"), "float32")


def scores(folder: Path, source: str | list[RewardPart]) -> Scores:
    bench = bench_of(folder)
    batch = collate([bench.renderer.group(g) for g in GROUPS])
    return open_reward(source, bench, "float32")(GROUPS, batch)


def alone(folder: Path, number: int) -> Tensor:
    return scores(folder, str(folder / f"reward-{number}" / "model")).scores_C


def test_two_reward_models_share_a_trunk_without_disturbing_each_other(folder: Path) -> None:
    names = [str(folder / f"reward-{i}" / "model") for i in (0, 1)]
    first_C, second_C = alone(folder, 0), alone(folder, 1)
    assert not torch.allclose(first_C, second_C)
    both = scores(folder, [RewardPart(name=names[0], weight=2.0), RewardPart(name=names[1], weight=-1.0)])
    torch.testing.assert_close(both.scores_C, 2 * first_C - second_C)
    assert set(both.parts) == {"reward-0", "reward-1"}
    worst = scores(folder, [RewardPart(name=names, how="min")])
    torch.testing.assert_close(worst.scores_C, torch.minimum(first_C, second_C))


def test_rules_and_functions_add_to_a_model(folder: Path) -> None:
    model = str(folder / "reward-0" / "model")
    parts = [
        RewardPart(name=model),
        RewardPart(name=f"{folder / 'mine.py'}:count_z", weight=0.5),
        RewardPart(
            name="rule:length", weight=10.0, settings={"at_most": 2, "unit": "characters"}, label="short"
        ),
    ]
    found = scores(folder, parts)
    # No z is no opinion, which adds nothing; two answers are longer than two characters.
    expected_C = alone(folder, 0) + torch.tensor([0.0, 0.5, 2.0]) - torch.tensor([10.0, 0.0, 10.0])
    torch.testing.assert_close(found.scores_C, expected_C)
    assert set(found.parts) == {"reward-0", "count_z", "short"}


def test_a_lone_function_without_an_opinion_is_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match="no reward has an opinion on row 0"):
        scores(folder, f"{folder / 'mine.py'}:count_z")


@pytest.mark.parametrize(("name", "message"), [("rule:brevity", "brevity"), ("gone.py:f", "gone.py")])
def test_what_is_not_there_is_named(folder: Path, name: str, message: str) -> None:
    with pytest.raises(AccordError, match=message):
        scores(folder, name)


def test_a_changed_function_is_another_run(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FUNCTION)
    before = code_hashes([RewardPart(name=f"{file}:count_z"), RewardPart(name="rule:ends")])
    assert before == code_hashes(f"{folder / 'mine.py'}:count_z") and len(before) == 1
    file.write_text(FUNCTION + "\n# changed\n")
    assert code_hashes(f"{file}:count_z") != before
