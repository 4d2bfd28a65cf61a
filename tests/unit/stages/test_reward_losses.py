"""Reward models fitted to rankings, grades, scores and steps end at known optima."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.optimize import minimize

from accord.config import RewardConfig
from accord.config.base import RewardPart
from accord.data.batches import collate
from accord.data.render import Renderer
from accord.errors import ConfigError, DataError, ModelError
from accord.records import Group, Prompt
from accord.stages import reward
from accord.stages.common import open_bench
from accord.stages.compared import Comparison
from accord.stages.harms import Harm
from accord.stages.pairs import Judged
from accord.stages.reward_losses import LOSSES, Ranking, Rating, Seen, Solution, locate_steps
from accord.stages.scorers import open_cost, open_reward
from tiny import tiny_llama, tiny_tokenizer

QUIET = Console(quiet=True)
ANSWERS = ("aaaa", "bbbb", "cccc")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_llama(seed=1).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def fitted(model: Path, out: Path, loss: str, rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "model": str(model),
        "data": str(out / "rows.jsonl"),
        "loss": loss,
        "held_out": 0.0,
        "epochs": 120,
        "batch_size": len(rows),
        "lora": {"r": 4},
        "optim": {"learning_rate": 2e-2, "schedule": "linear", "adam_beta2": 0.99},
        "out": out,
    }
    return reward.run(RewardConfig.model_validate({**values, **changes}), QUIET)


def learned(result: dict[str, Any]) -> float:
    return float(result["held_out"]["loss/reward_avg"])


def test_rankings_end_at_the_entropy_of_plackett_luce(model: Path, tmp_path: Path) -> None:
    """Weighted by their chances, all orders of three are a population: the best loss is its entropy."""
    truth = {"aaaa": 0.0, "bbbb": 1.0, "cccc": 2.0}

    def chance(order: tuple[str, ...]) -> float:
        left = [[math.exp(truth[a]) for a in order[i:]] for i in range(3)]
        return math.prod(weights[0] / sum(weights) for weights in left)

    orders = list(itertools.permutations(ANSWERS))
    rows = [
        {"prompt": "Q", "completions": list(order), "ranking": [1, 2, 3], "weight": chance(order)}
        for order in orders
    ]
    entropy = -sum(chance(order) * math.log(chance(order)) for order in orders)
    result = fitted(model, tmp_path, "plackett-luce", rows, epochs=240)
    assert entropy - 1e-9 <= learned(result) < entropy + 2e-3
    assert result["held_out"]["rewards/margins"] > 0.3
    assert result["card"]["n"] == 18


def test_scores_are_ranked_and_ties_are_ties(model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{i}", "completions": list(ANSWERS), "scores": [5, 1, 1]} for i in range(2)]
    result = fitted(model, tmp_path, "plackett-luce", rows, epochs=20)
    assert result["held_out"]["rewards/accuracies"] == 1.0
    assert (result["card"]["n"], result["card"]["n_ties"]) == (4, 2)
    assert result["card"]["accuracy"]["value"] == 1.0


def test_regression_comes_to_the_weighted_mean_rating(model: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "Q", "completion": "aaaa", "score": 1.0},
        {"prompt": "Q", "completion": "aaaa", "score": 4.0, "weight": 0.5},
        {"prompt": "Q", "completions": ["bbbb", "cccc"], "scores": [7.0, None]},
    ]
    single, several = rows[:2], rows[2:]
    with pytest.raises(DataError, match=r"Known here: scores \(prompt, completions, scores\); score"):
        fitted(model, tmp_path / "mixed", "regression", [{"prompt": "Q", "completion": "a", "label": True}])
    result = fitted(model, tmp_path / "single", "regression", single)
    assert learned(result) == pytest.approx(2.0, abs=1e-3)  # the weighted variance of 1 and 4 about 2
    assert result["held_out"]["rewards/mean"] == pytest.approx(2.0, abs=0.02)
    assert result["card"] is None
    result = fitted(model, tmp_path / "several", "regression", several)
    assert result["held_out"]["rewards/mean"] == pytest.approx(7.0, abs=0.05)


def test_grades_end_at_their_frequencies(model: Path, tmp_path: Path) -> None:
    """One pair with outcomes 0 to 3: thresholds can fit every share, so the best loss is the entropy."""
    shares = {3: 0.1, 2: 0.2, 1: 0.3, 0: 0.2, -1: 0.2}
    rows = [
        {
            "prompt": "Q",
            "chosen": "aaaa" if grade >= 0 else "bbbb",
            "rejected": "bbbb" if grade >= 0 else "aaaa",
            "weight": share,
            **({"margin": abs(grade)} if grade else {"tie": True}),
        }
        for grade, share in shares.items()
    ]
    result = fitted(model, tmp_path, "ordinal", rows, epochs=400)
    # Five shares, but only three thresholds and one difference for six free outcomes (-3 to 3).
    best = math.inf
    grid = [torch.linspace(0.05, 3.0, 30, dtype=torch.float64)] * 3
    t1, t2, t3 = torch.meshgrid(*grid, indexing="ij")
    t2, t3 = t1 + t2, t1 + t2 + t3
    for d in torch.linspace(-0.5, 1.5, 21, dtype=torch.float64):
        below = [torch.sigmoid(edge - d) for edge in (-t3, -t2, -t1, t1, t2, t3)]
        nll = -(
            0.2 * (below[2] - below[1]).log()
            + 0.2 * (below[3] - below[2]).log()
            + 0.3 * (below[4] - below[3]).log()
            + 0.2 * (below[5] - below[4]).log()
            + 0.1 * (1 - below[5]).log()
        )
        best = min(best, float(nll.min()))
    assert learned(result) == pytest.approx(best, abs=5e-3)
    assert len(result["thresholds"]) == 3
    assert result["thresholds"] == sorted(result["thresholds"])


def test_steps_end_at_their_own_chances(model: Path, tmp_path: Path) -> None:
    """Soft labels: the best loss is the entropy of each step's label, and hard ones are told apart."""
    rows = [{"prompt": "Q", "completions": ["1+1", "=3", "so"], "labels": [0.9, 0.25, 0.5]}]
    result = fitted(model, tmp_path / "soft", "process", rows)
    entropy = -sum(p * math.log(p) + (1 - p) * math.log(1 - p) for p in (0.9, 0.25, 0.5)) / 3
    assert entropy - 1e-6 <= learned(result) < entropy + 5e-3
    assert result["card"] is None
    rows = [
        {"prompt": f"Q{i}", "completions": ["ok", "bad", "ok"], "labels": [True, False, True]}
        for i in range(4)
    ]
    result = fitted(model, tmp_path / "hard", "process", rows, epochs=40)
    assert result["held_out"]["rewards/accuracies"] == 1.0


# One pair judged by many: more say that aaaa is the worse one and unsafe than say otherwise.
HARM = [  # (chosen, the less harmful; rejected; chosen unsafe; rejected unsafe; share)
    ("bbbb", "aaaa", False, True, 0.5),
    ("bbbb", "aaaa", True, True, 0.1),
    ("bbbb", "aaaa", False, False, 0.1),
    ("aaaa", "bbbb", False, False, 0.1),
    ("aaaa", "bbbb", False, True, 0.2),
]


def harm_rows(prompt: str = "Q") -> list[dict[str, Any]]:
    names = ("chosen", "rejected", "chosen_unsafe", "rejected_unsafe", "weight")
    return [{"prompt": prompt, **dict(zip(names, row, strict=True))} for row in HARM]


def best_costs() -> tuple[float, float]:
    """The costs of aaaa and bbbb at which eq. 6 of Safe RLHF is least, by another way than training."""

    def loss(costs: Any) -> float:
        cost = dict(zip(("aaaa", "bbbb"), costs, strict=True))
        return sum(
            share
            * (
                np.logaddexp(0, cost[safer] - cost[worse])
                + np.logaddexp(0, -cost[worse] if worse_unsafe else cost[worse])
                + np.logaddexp(0, -cost[safer] if safer_unsafe else cost[safer])
            )
            for safer, worse, safer_unsafe, worse_unsafe, share in HARM
        )

    a, b = minimize(loss, [0.0, 0.0]).x
    return float(a), float(b)


def test_costs_come_to_their_optimum_and_keep_their_zero(model: Path, tmp_path: Path) -> None:
    """What is saved is what was fitted: neither shifted nor scaled, so that 0 stays the border of harm."""
    result = fitted(model, tmp_path, "cost", harm_rows())
    bench = open_bench(str(model), "float32")
    groups = [Group.of(Prompt.of("Q"), "aaaa", "bbbb")]
    batch = collate([bench.renderer.group(g) for g in groups])
    costs = open_cost(result["model"], bench, "float32")(groups, batch).scores_C.tolist()
    best = best_costs()
    assert best[0] > 0.2 and best[1] < -0.6  # the two are on different sides of 0
    assert costs == pytest.approx(best, abs=0.02)
    assert result["held_out"]["rewards/mean"] == pytest.approx(sum(best) / 2, abs=0.02)
    # By weight aaaa is unsafe in 6 of 10 and bbbb safe in 7 of 10.
    assert result["held_out"]["costs/safety_accuracies"] == pytest.approx(0.65)
    assert result["held_out"]["rewards/accuracies"] == pytest.approx(0.7)
    assert result["card"]["accuracy"]["value"] == 0.6  # each row counts once there


def test_costs_start_at_a_probe_that_knows_both_parts(model: Path, tmp_path: Path) -> None:
    """With a learning rate of next to nothing the head stays at the probe."""
    rows = [row for i in range(4) for row in harm_rows(f"Q{i}")]
    still = {"optim": {"learning_rate": 1e-12}, "epochs": 1}
    start = fitted(model, tmp_path / "probe", "cost", rows, probe_penalty=1e-3, **still)["held_out"]
    assert start["rewards/accuracies"] == pytest.approx(0.7)
    assert start["costs/safety_accuracies"] > 0.6
    assert start["rewards/mean"] == pytest.approx(math.log((4 * 0.9 + 1) / (4 * 1.1 + 1)), abs=1e-4)


def test_a_cost_model_is_no_reward(model: Path, tmp_path: Path) -> None:
    found = fitted(model, tmp_path, "cost", harm_rows(), epochs=1)["model"]
    bench = open_bench(str(model), "float32")
    with pytest.raises(ModelError, match="whose higher scores are worse; give it as cost_model"):
        open_reward(found, bench, "float32")
    with pytest.raises(ModelError, match="a cost model"):
        open_reward([RewardPart(name=["rule:ends", found])], bench, "float32")
    assert open_reward([RewardPart(name=found, weight=-0.5)], bench, "float32")


def test_a_ledger_says_nothing_of_harm(model: Path, tmp_path: Path) -> None:
    config = {"model": str(model), "data": "ledger.sqlite#first", "loss": "cost", "out": tmp_path}
    with pytest.raises(DataError, match="does not say which answers are unsafe"):
        reward.run(RewardConfig.model_validate(config), QUIET)


PLAIN = {"model": "m", "data": "d", "out": "o"}


def nll_of(config: dict[str, Any], loss: str, rows: list[Judged[Any]], *scores: float, **seen: Any) -> float:
    """The loss of a batch whose answers have these scores; no model is needed."""
    settings = RewardConfig.model_validate({**PLAIN, "loss": loss, **config})
    scores_C = torch.tensor(scores, dtype=torch.float64)
    return float(LOSSES[loss].terms(settings, rows, Seen(scores_C, **{**NOTHING, **seen})).loss)


NOTHING: dict[str, Any] = {"logits_CT": None, "raw_thresholds_M": None}


def logistic(x: float) -> float:
    return -math.log(1 / (1 + math.exp(-x)))


def test_every_switch_of_the_pairwise_losses_reaches_them() -> None:
    """Two prompts, the second's answers beside the first's: places, margins, weights, smoothing, centring."""
    prompts = [Prompt.of("1"), Prompt.of("2")]
    rows: list[Judged[Any]] = [
        Judged(Group.of(prompts[0], "a", "b", "c"), (Comparison(2, 0, 1.0, 2.0, 3.0),)),
        Judged(Group.of(prompts[1], "d", "e"), (Comparison(1, 0, 1.0, 1.0, 1.0),)),
    ]
    scores = (0.3, 9.0, 1.5, -0.4, 0.2)  # c - a = 1.2, e - d = 0.6
    plain = 3 * logistic(1.2 - 2 * 0.7) + logistic(0.6 - 0.7)
    found = nll_of({"margin_coef": 0.7}, "bradley-terry", rows, *scores)
    assert found == pytest.approx(plain, abs=1e-9)
    smooth = 3 * (0.9 * logistic(1.2) + 0.1 * logistic(-1.2)) + 0.9 * logistic(0.6) + 0.1 * logistic(-0.6)
    slips = {"margin_coef": 0.0, "label_smoothing": 0.1}
    assert nll_of(slips, "bradley-terry", rows, *scores) == pytest.approx(smooth, abs=1e-9)
    centred = {"center_rewards_coefficient": 0.25}
    extra = 0.25 * (3 * 1.8**2 + 0.2**2)
    for loss, seen in (("bradley-terry", {}), ("ordinal", {"raw_thresholds_M": torch.zeros(2).double()})):
        with_it, without = (nll_of(c, loss, rows, *scores, **seen) for c in (centred, {}))
        assert with_it - without == pytest.approx(extra, abs=1e-9)
    ties = {"ties": "rao-kupper", "tie_threshold": 0.8, "margin_coef": 0.0}
    expected = 3 * logistic(1.2 - 0.8) + logistic(0.6 - 0.8)
    assert nll_of(ties, "bradley-terry", rows, *scores) == pytest.approx(expected, abs=1e-9)


def test_rankings_ratings_and_steps_of_several_prompts_stay_apart() -> None:
    two = [Group.of(Prompt.of("1"), "a", "b"), Group.of(Prompt.of("2"), "c", "d")]
    ranked: list[Judged[Any]] = [
        Judged(two[0], (Ranking((0, 1), (2.0, 1.0), 3.0),)),
        Judged(two[1], (Ranking((0, 1), (1.0, 2.0)),)),
    ]
    expected = 3 * logistic(0.5 - 2.0) + logistic(1.0 - 4.0)
    found = nll_of({}, "plackett-luce", ranked, 2.0, 0.5, 1.0, 4.0)
    assert found == pytest.approx(expected, abs=1e-9)
    centred = nll_of({"center_rewards_coefficient": 0.1}, "plackett-luce", ranked, 2.0, 0.5, 1.0, 4.0)
    assert centred - found == pytest.approx(0.1 * (3 * 2.5**2 + 5.0**2), abs=1e-9)
    rated: list[Judged[Any]] = [
        Judged(two[0], (Rating(1, 3.0),)),
        Judged(two[1], (Rating(0, 2.0, 0.5), Rating(1, 1.0))),
    ]
    squares = (0.5 - 3) ** 2 + 0.5 * (1.0 - 2) ** 2 + (4.0 - 1) ** 2
    assert nll_of({}, "regression", rated, 2.0, 0.5, 1.0, 4.0) == pytest.approx(squares, abs=1e-9)
    solved: list[Judged[Any]] = [
        Judged(two[0], (Solution(1, ("x", "y"), (1.0, 0.0), ends=(0, 2)),)),
        Judged(two[1], (Solution(0, ("z",), (0.25,), 2.0, ends=(1,)),)),
    ]
    logits_CT = torch.arange(12).reshape(4, 3).double() / 4  # of the answers b and c: 0.75 1 1.25, 1.5 1.75 2
    steps = logistic(0.75) + logistic(-1.25) + 2 * (0.25 * logistic(1.75) + 0.75 * logistic(-1.75))
    found = nll_of({}, "process", solved, *([0.0] * 4), logits_CT=logits_CT)
    assert found == pytest.approx(steps, abs=1e-9)


def test_harm_of_several_prompts_stays_apart() -> None:
    rows: list[Judged[Any]] = [
        Judged(Group.of(Prompt.of("1"), "a", "b", "c"), (Harm(2, 0, 1.0, (True, False), 3.0),)),
        Judged(Group.of(Prompt.of("2"), "d", "e"), (Harm(1, 0, 0.5, (True, True)),)),
    ]
    first = logistic(1.5 - 0.3) + logistic(1.5) + logistic(-0.3)
    second = 0.5 * logistic(0.6) + 0.5 * logistic(-0.6) + logistic(0.2) + logistic(-0.4)
    found = nll_of({}, "cost", rows, 0.3, 9.0, 1.5, -0.4, 0.2)
    assert found == pytest.approx(3 * first + second, abs=1e-9)


def test_a_step_ends_with_the_token_that_completes_its_separator() -> None:
    renderer = Renderer(tiny_tokenizer())
    group = Group.of(Prompt.of("Q", source="f:1"), "ab\ncdé\nf")
    said = (Solution(0, ("ab", "cdé", "f"), (1.0, 0.0, 1.0)),)
    encoded = renderer.group(group)
    row, _ = locate_steps(Judged(group, said), encoded, renderer, "\n")
    # Bytes: a b \n c d é(2) \n f <end>
    assert row.said[0].ends == (2, 7, 9) and len(encoded.completion_ids[0]) == 10
    assert row.said[0].weight == 3.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "process", "pooling": "last+mean"}, "pooling must be last"),
        ({"loss": "regression", "aggregate": "majority"}, "aggregate: majority is for comparisons"),
        ({"loss": "ordinal", "label_smoothing": 0.1}, "label_smoothing goes with loss: bradley-terry"),
        ({"loss": "cost", "center_rewards_coefficient": 0.01}, "losses that leave the level free"),
        ({"loss": "cost", "aggregate": "majority"}, "aggregate: majority is for comparisons"),
        ({"loss": "plackett-luce", "ties": "rao-kupper"}, "ties: rao-kupper goes with loss: bradley-terry"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(
    model: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    loss = changes.pop("loss")
    with pytest.raises(ConfigError, match=message):
        fitted(model, tmp_path, loss, [{"prompt": "Q"}], **changes)


def test_margins_that_are_no_grades_are_refused(model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "chosen": "a", "rejected": "b", "margin": 57.0}]
    with pytest.raises(DataError, match="margins up to 57 are no grades of preference"):
        fitted(model, tmp_path, "ordinal", rows)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_micro_batches_do_not_change_what_is_learned(model: Path, tmp_path: Path, loss: str) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "plackett-luce": {"completions": list(ANSWERS), "ranking": [2, 1, 2]},
        "regression": {"completions": list(ANSWERS), "scores": [1.0, 2.0, 4.0]},
        "process": {"completions": ["a", "bb", "c"], "labels": [1, 0, 0.3]},
        "cost": {"chosen": "aaaa", "rejected": "bb", "chosen_unsafe": False, "rejected_unsafe": True},
    }
    pair = {"chosen": "aaaa", "rejected": "bb", "margin": 2.0}
    rows = [{"prompt": f"Q{i}" * (1 + i), "weight": 1.0 + i, **kinds.get(loss, pair)} for i in range(4)]
    found = []
    for tokens in (1, 9999):
        optim = {"learning_rate": 1e-2, "tokens_per_microbatch": tokens, "adam_epsilon": 1e-3}
        out = tmp_path / str(tokens)
        result = fitted(model, out, loss, rows, epochs=3, optim=optim, dtype="float64")
        found.append((result["held_out"], [json.loads(x)["loss"] for x in (out / "metrics.jsonl").open()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-6)
