"""From the setting `reward_model` to a scorer: a model, a rule, a user's function, an ensemble, or a sum."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accord.config.base import RewardPart, RewardSource
from accord.errors import ModelError
from accord.records import content_hash
from accord.rewards.combine import Component, Ensemble, WeightedSum
from accord.rewards.functions import load_function
from accord.rewards.learned import load_classifier_reward, load_trunk_reward
from accord.rewards.rules import rule_reward
from accord.rewards.scorer import Scorer
from accord.stages.common import Bench, open_bench, read_record

RULE = "rule:"
FIRST_COST = 100  # the adapters of cost models are numbered from here


def open_reward(source: RewardSource, bench: Bench, dtype: str) -> Scorer:
    """The scorer for the policy on `bench`.

    A name is a folder or hub id, `rule:NAME` or `FILE.py:FUNCTION`; a list of parts is a weighted sum, and a
    part that names several models is an ensemble. Raises ModelError for a cost model that would be a reward.
    """
    for part in _parts(source):
        costs = [n for n in _names(part) if read_record(Path(n)).get("loss") == "cost"]
        if costs and part.weight > 0:
            raise ModelError(
                f"{costs[0]}: a cost model, whose higher scores are worse; give it as cost_model to `accord "
                "ppo`, or as a part of the reward with a negative weight"
            )
    return _open(source, bench, dtype, 0)


def open_cost(source: RewardSource, bench: Bench, dtype: str) -> Scorer:
    """The same for what scores harm, a higher score being worse; its adapters are numbered apart."""
    return _open(source, bench, dtype, FIRST_COST)


def _open(source: RewardSource, bench: Bench, dtype: str, first: int) -> Scorer:
    """`first` numbers the adapters of its models on the policy's trunk."""
    if isinstance(source, str) and not (_is_function(source) or source.startswith(RULE)):
        return _model(source, bench, dtype, first)
    # Rules and functions stand in a sum even when alone: there "no opinion" is an error and never a NaN.
    components = []
    for part in _parts(source):
        components.append(
            Component(part.label or _label(part), _scorer(part, bench, dtype, first), part.weight)
        )
        first += len(_names(part))
    return WeightedSum(tuple(components))


def code_hashes(source: RewardSource) -> list[str]:
    """Hashes of the users' files behind a reward, so that a run is not resumed with another function."""
    files = [Path(n.rpartition(":")[0]) for part in _parts(source) for n in _names(part) if _is_function(n)]
    return [content_hash(file.read_text(encoding="utf-8")) for file in files if file.is_file()]


def _scorer(part: RewardPart, bench: Bench, dtype: str, first: int) -> Scorer:
    if not isinstance(part.name, str):
        members = tuple(_single(part, n, bench, dtype, first + i) for i, n in enumerate(part.name))
        return Ensemble(members, part.how, part.coef)
    return _single(part, part.name, bench, dtype, first)


def _single(part: RewardPart, name: str, bench: Bench, dtype: str, number: int) -> Scorer:
    if name.startswith(RULE):
        return rule_reward(name.removeprefix(RULE), part.settings)
    return load_function(name) if _is_function(name) else _model(name, bench, dtype, number)


def _model(name: str, bench: Bench, dtype: str, number: int) -> Scorer:
    """A reward model: on the policy's own trunk when it was trained there, else apart."""
    folder = Path(name)
    record = read_record(folder)
    if record.get("stage") != "reward":
        return load_classifier_reward(name)
    base = str(record["base"])
    if base == bench.loaded.source:
        return load_trunk_reward(folder, bench.trunk, bench.hidden_size, number=number)
    home = open_bench(base, dtype)
    if home.loaded.tokenizer.get_vocab() != bench.loaded.tokenizer.get_vocab():
        raise ModelError(
            f"{name}: this reward model's base {base} has another tokenizer than {bench.loaded.name}; "
            "train one on the policy's own model, or give a Hugging Face classifier"
        )
    return load_trunk_reward(folder, home.trunk, home.hidden_size)


def _is_function(name: str) -> bool:
    return name.rpartition(":")[0].endswith(".py")


def _parts(source: RewardSource) -> Sequence[RewardPart]:
    return [RewardPart(name=source)] if isinstance(source, str) else source


def _names(part: RewardPart) -> Sequence[str]:
    return [part.name] if isinstance(part.name, str) else part.name


def _label(part: RewardPart) -> str:
    """How its metrics are called: the rule, the function, the folder, or "ensemble"."""
    if not isinstance(part.name, str):
        return "ensemble"
    if part.name.startswith(RULE) or _is_function(part.name):
        return part.name.rpartition(":")[2]
    return Path(part.name).parent.name if Path(part.name).name == "model" else Path(part.name).name
