"""The on-policy methods as stages, on a tiny random model and a rule for a reward: they learn and resume."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from accord import config as settings
from accord.config import BestOfNConfig, OnlineConfig, RunConfig, read_config
from accord.data.batches import GroupBatch
from accord.errors import ConfigError, NumericsError
from accord.loop import quickstart_file, rounds
from accord.records import Group
from accord.rewards.scorer import Scores
from accord.stages import best_of_n, online
from accord.stages.methods import METHODS
from printing import PRINTABLE, SCHEMAS, printable, printing_config
from tiny import tiny_llama, tiny_tokenizer

QUIET = Console(quiet=True)
WITHOUT_CRITIC = sorted(set(SCHEMAS) - {"ppo", "ppo-lagrangian"})
NO_LEASH = {"kl": {"coef": 0.0}, "stop_kl": 100.0}
# What makes each method learn fast; nothing else differs.
PACE: dict[str, dict[str, Any]] = {
    "grpo": NO_LEASH,
    "rloo": {**NO_LEASH, "clip_range": 0.5},
    "reinforce++": NO_LEASH,
    "online-dpo": {"beta": 0.02, "epochs": 2},
    "xpo": {"beta": 0.02, "epochs": 2, "k": 4},
}


def constant(groups: Sequence[Group], batch: GroupBatch) -> Scores:
    return Scores(torch.ones(len(batch.mask_CT)))


@pytest.fixture(autouse=True)
def rule(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in (online, best_of_n):
        monkeypatch.setattr(stage, "open_reward", lambda *_: printable)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    tiny_llama().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    rows = {
        "prompts": [{"prompt": f"Say {i}."} for i in range(10)],
        "demonstrations": [{"prompt": f"Say {i}.", "completion": "yes"} for i in range(10)],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def online_config(world: Path, method: str, out: Path, **changes: Any) -> OnlineConfig:
    values = {"iterations": 12, "prompts_per_iteration": 6, "max_new_tokens": 6}
    return printing_config(world, method, out, **{**values, **changes})


def logged(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / "model" / "model.safetensors")


@pytest.mark.parametrize("method", WITHOUT_CRITIC)
def test_every_method_raises_the_reward(world: Path, tmp_path: Path, method: str) -> None:
    faster = {"optim": {"learning_rate": 3e-2, "schedule": "constant"}, "prompts_per_iteration": 10}
    result = online.run(online_config(world, method, tmp_path, **faster, **PACE[method]), QUIET)
    rows = logged(tmp_path)
    first, last = (sum(r["objective/scores"] for r in part) / 3 for part in (rows[:3], rows[-3:]))
    assert last > first + 0.1
    assert rows[0]["objective/kl"] == pytest.approx(0.0, abs=1e-3) and rows[-1]["objective/kl"] > 0.05
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert (result["stage"], result["score_last"]) == (method, rows[-1]["objective/scores"])


GRPO_KINDS: dict[str, dict[str, Any]] = {
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "dapo": {"epsilon_high": 0.28, "drop_equal_groups": True, "overlong_buffer": 3, "kl": {"coef": 0.0}},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02},
    "batch": {"scale_rewards": "batch", "kl": {"mode": "adaptive", "coef": 0.1, "horizon": 50}},
    "kl in the reward": {"use_kl_in_reward": True, "kl": {"coef": 0.5}},
}


@pytest.mark.parametrize("kind", sorted(GRPO_KINDS))
def test_every_kind_of_grpo_starts_on_policy_and_moves(world: Path, tmp_path: Path, kind: str) -> None:
    online.run(online_config(world, "grpo", tmp_path, iterations=3, **GRPO_KINDS[kind]), QUIET)
    rows = logged(tmp_path)
    assert [row["updates"] for row in rows] and rows[-1]["objective/kl"] != 0
    assert all(("loss/kl_avg" in row) == (kind not in ("dapo", "kl in the reward")) for row in rows)
    if kind == "batch":
        assert rows[0]["kl_coef"] != rows[-1]["kl_coef"]
    if kind != "dapo":
        assert all(abs(row["objective/advantages"]) < 0.1 * row["objective/advantages_std"] for row in rows)


# -------------------------------------------------------------------- what must not change the result


@pytest.mark.parametrize("method", WITHOUT_CRITIC)
def test_micro_batches_do_not_change_what_is_learned(world: Path, tmp_path: Path, method: str) -> None:
    found = []
    for tokens in (60, 5000):
        optim = {"learning_rate": 1e-3, "tokens_per_microbatch": tokens}
        ptx = {"ptx_data": str(world / "demonstrations.jsonl"), "ptx_batch_size": 3}
        out = tmp_path / str(tokens)
        changes = {"iterations": 2, "dtype": "float64", "optim": optim, **ptx}
        online.run(online_config(world, method, out, **changes), QUIET)
        found.append((weights(out), logged(out)))
    (few, few_rows), (many, many_rows) = found
    start = load_file(world / "model" / "model.safetensors")
    moved = max(float((few[name] - start[name]).abs().max()) for name in few)
    assert moved > 1e-4
    for name in few:
        assert float((few[name] - many[name]).abs().max()) < 1e-6 * moved, name
    for a, b in zip(few_rows, many_rows, strict=True):
        if a["step"] == 1:  # pairs of the first minibatch have no margin yet, but by rounding
            a, b = ({n: x for n, x in row.items() if n != "rewards/accuracies"} for row in (a, b))
        assert a == pytest.approx(b, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("method", WITHOUT_CRITIC)
def test_an_interrupted_run_ends_bit_identical(
    world: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kl = {"kl": {"mode": "adaptive", "horizon": 20}} if "kl" in SCHEMAS[method].model_fields else {}
    changes = {"iterations": 4, "checkpoint_every": 2, **kl}
    online.run(online_config(world, method, tmp_path / "straight", **changes), QUIET)
    config = online_config(world, method, tmp_path / "cut", **changes)
    iterate = online.Online.iterate

    def cut(self: online.Online, number: int) -> dict[str, float]:
        if number == 3:
            raise RuntimeError("power cut")
        return iterate(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(online.Online, "iterate", cut)
        with pytest.raises(RuntimeError, match="power cut"):
            online.run(config, QUIET)
    online.run(config, QUIET)
    assert logged(tmp_path / "cut") == logged(tmp_path / "straight")
    straight, again = weights(tmp_path / "straight"), weights(tmp_path / "cut")
    assert all(torch.equal(straight[name], again[name]) for name in straight)


# --------------------------------------------------------------------------------- switches and refusals


def test_the_trainers_own_log_probs_agree_with_the_samplers(world: Path, tmp_path: Path) -> None:
    """The same model twice: weights of 1, no mismatch, and so the same run."""
    for method in ("grpo", "rloo"):
        plain, weighed = tmp_path / method / "plain", tmp_path / method / "weighed"
        changes = {"iterations": 2, "dtype": "float64"}
        online.run(online_config(world, method, plain, **changes), QUIET)
        online.run(online_config(world, method, weighed, importance_sampling_cap=2.0, **changes), QUIET)
        for with_weights, without in zip(logged(weighed), logged(plain), strict=True):
            assert with_weights["policy/importance_avg"] == pytest.approx(1, abs=1e-9)
            assert with_weights["policy/importance_clipfrac"] == 0
            assert 0 <= with_weights["policy/mismatch_kl"] < 1e-12
            assert {k: with_weights[k] for k in without} == pytest.approx(without, rel=1e-6, abs=1e-9)


def test_a_sampler_that_is_not_the_policy_is_weighed(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sampler that samples hotter than it says."""
    roll_out = online.Passes.roll_out

    def off(self: online.Passes, groups: Sequence[Group], **how: Any) -> online.Rollouts:
        from dataclasses import replace

        shifted = [
            Group(
                g.prompt,
                tuple(replace(c, logps=tuple(x - 0.5 for x in c.logps)) for c in g.completions),
            )
            for g in groups
        ]
        return roll_out(self, shifted, **{**how, "first": False})

    monkeypatch.setattr(online.Passes, "roll_out", off)
    changes = {"iterations": 1, "epochs": 1, "minibatches": 1}
    rows = {}
    for cap in (1.0, 1.5):
        out = tmp_path / str(cap)
        online.run(online_config(world, "grpo", out, importance_sampling_cap=cap, **changes), QUIET)
        (rows[cap],) = logged(out)
    row = rows[1.5]
    # Every token weighs 1.5; the KL's gradient is 0 at the start.
    assert row["grad_norm"] == pytest.approx(1.5 * rows[1.0]["grad_norm"], rel=1e-4)
    assert row["policy/importance_avg"] == pytest.approx(1.5) and row["policy/importance_clipfrac"] == 1.0
    assert row["policy/mismatch_kl"] == pytest.approx(math.exp(0.5) - 1 - 0.5, rel=1e-3)


def test_groups_of_equal_rewards_teach_nothing_and_can_be_left_out(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "open_reward", lambda *_: constant)
    online.run(online_config(world, "grpo", tmp_path, iterations=2, drop_equal_groups=True), QUIET)
    for row in logged(tmp_path):
        assert (row["frac_reward_zero_std"], row["completions/used"], row["updates"]) == (1.0, 0.0, 0.0)
    start = load_file(world / "model" / "model.safetensors")
    assert all(torch.equal(value, start[name]) for name, value in weights(tmp_path).items())


def half(groups: Sequence[Group], batch: GroupBatch) -> Scores:
    """Every other prompt's answers all score the same."""
    even_C = torch.tensor([int(g.prompt.messages[-1].content[4]) % 2 for g in groups for _ in g.completions])
    return Scores(torch.where(even_C == 0, 1.0, printable(groups, batch).scores_C))


@pytest.mark.parametrize("rounds", [0, 1, 8])
def test_groups_of_equal_rewards_are_replaced(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    monkeypatch.setattr(online, "open_reward", lambda *_: half)
    changes = {"iterations": 3, "drop_equal_groups": True, "resample_rounds": rounds, "checkpoint_every": 1}
    config = online_config(world, "grpo", tmp_path / "whole", **changes)
    seen: list[Any] = []
    credit = METHODS[settings.GrpoConfig].credit

    def watched(c: Any, r: online.Rollouts, kl_coef: float) -> Any:
        found = credit(c, r, kl_coef)
        seen.append((len(r.groups), {g.prompt.messages[-1].content for g in r.groups}, found.keep_C))
        assert r.group_C.tolist() == [g for g, e in enumerate(r.encoded) for _ in e.completion_ids]
        rows = range(len(r.mask_CT))
        logps = [logp for g in r.groups for c in g.completions for logp in c.logps]
        assert [x for i in rows for x in r.sampler_logps_CT[i][r.mask_CT[i]].tolist()] == pytest.approx(logps)
        return found

    from dataclasses import replace

    monkeypatch.setitem(METHODS, settings.GrpoConfig, replace(METHODS[settings.GrpoConfig], credit=watched))  # type: ignore[arg-type]
    online.run(config, QUIET)
    rows = logged(tmp_path / "whole")
    for row, (groups, prompts, keep_C) in zip(rows, seen, strict=True):
        if rounds == 0:
            assert "completions/resample_rounds" not in row and not keep_C.all()
            continue
        assert keep_C.all() and all(int(p[4]) % 2 for p in prompts)
        assert row["completions/resample_rounds"] <= rounds
        assert row["completions/resample_kept"] == pytest.approx(groups / row["completions/resample_groups"])
        assert row["frac_reward_zero_std"] > 0  # of the first sampling, before any was left out
        if rounds == 8:
            assert groups == config.prompts_per_iteration
    if rounds == 8:  # a resumed run draws the same
        cut = tmp_path / "cut"
        iterate, online_iterate = online.Online.iterate, {"left": 2}

        def stopping(self: online.Online, number: int) -> dict[str, float]:
            online_iterate["left"] -= 1
            if online_iterate["left"] < 0:
                raise RuntimeError("power cut")
            return iterate(self, number)

        with monkeypatch.context() as patch:
            patch.setattr(online.Online, "iterate", stopping)
            with pytest.raises(RuntimeError, match="power cut"):
                online.run(config.model_copy(update={"out": cut}), QUIET)
        online.run(config.model_copy(update={"out": cut}), QUIET)
        assert logged(cut) == rows


def test_where_all_rewards_are_equal_resampling_ends(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "open_reward", lambda *_: constant)
    changes = {"iterations": 1, "drop_equal_groups": True, "resample_rounds": 2}
    online.run(online_config(world, "grpo", tmp_path, **changes), QUIET)
    (row,) = logged(tmp_path)
    assert (
        row["completions/resample_rounds"],
        row["completions/resample_groups"],
        row["completions/resample_kept"],
    ) == (2, 18, 0)
    assert row["updates"] == 0


def test_answers_that_were_cut_off_can_be_left_out(world: Path, tmp_path: Path) -> None:
    """No answer of this policy ends by itself within two tokens."""
    changes = {"iterations": 1, "max_new_tokens": 2, "mask_truncated_completions": True}
    online.run(online_config(world, "grpo", tmp_path, **changes), QUIET)
    (row,) = logged(tmp_path)
    assert row["completions/used"] == pytest.approx(1 - row["completions/clipped_ratio"])


def test_the_overlong_penalty_counts(world: Path, tmp_path: Path) -> None:
    """Equal scores, lengths alike: only with the buffer do lengths 1 to 6 differ."""
    config = online_config(world, "grpo", tmp_path, max_new_tokens=6, overlong_buffer=6, scale_rewards="none")
    from accord.stages.methods import grpo_credit
    from accord.stages.rollouts import Rollouts

    lengths_C = torch.tensor([1, 3, 6, 6])
    mask_CT = torch.arange(6) < lengths_C[:, None]
    zeros_CT, ones_C = torch.zeros(4, 6), torch.ones(4)
    rollouts = Rollouts(
        groups=[],
        encoded=[],
        group_C=torch.tensor([0, 0, 1, 1]),
        own_C=ones_C.bool(),
        finished_C=ones_C.bool(),
        mask_CT=mask_CT,
        sampler_logps_CT=zeros_CT,
        logps_CT=zeros_CT,
        ref_logps_CT=zeros_CT,
        scores_C=ones_C,
        rewards_C=ones_C,
        features_CTD=None,
        values_CT=zeros_CT,
    )
    advantages_CT = grpo_credit(config, rollouts, 0.0).advantages_CT
    assert advantages_CT[:, 0].tolist() == pytest.approx([1 / 6, -1 / 6, 0.0, 0.0])


def test_the_pre_training_mix_keeps_demonstrations_likely(world: Path, tmp_path: Path) -> None:
    found = {}
    for coef in (1e-9, 1.0):
        mix = {"ptx_data": str(world / "demonstrations.jsonl"), "ptx_coef": coef}
        online.run(online_config(world, "rloo", tmp_path / str(coef), **PACE["rloo"], **mix), QUIET)
        found[coef] = [row["loss/ptx_avg"] for row in logged(tmp_path / str(coef))]
    assert found[1.0][0] == pytest.approx(found[1e-9][0], rel=0.2)
    assert found[1.0][-1] < 0.5 * found[1e-9][-1]


def test_xpo_compares_the_policy_with_its_reference(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Group] = []
    sample = online.Online.sample

    def watched(self: online.Online, *args: Any) -> list[Group]:
        groups = sample(self, *args)
        seen.extend(groups)
        return groups

    monkeypatch.setattr(online.Online, "sample", watched)
    online.run(online_config(world, "xpo", tmp_path, iterations=1, k=2), QUIET)
    for group in seen:
        theirs = [c.policy_version == "reference" for c in group.completions]
        assert theirs == [False, False, True, True]
        assert group.completions[0].token_ids != group.completions[2].token_ids
    assert logged(tmp_path)[0]["completions/used"] <= 1.0


def test_the_parts_of_a_combined_reward_are_logged(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In micro-batches of a few answers, one of the parts with an opinion on some of them only."""

    def combined(groups: Sequence[Group], batch: GroupBatch) -> Scores:
        scores_C = printable(groups, batch).scores_C
        only_C = torch.where(batch.targets_CT[:, 0] < PRINTABLE, 3.0, torch.nan)
        return Scores(scores_C, parts={"printable": 2 * scores_C, "only": only_C})

    monkeypatch.setattr(online, "open_reward", lambda *_: combined)
    optim = {"learning_rate": 1e-3, "tokens_per_microbatch": 100}
    online.run(online_config(world, "rloo", tmp_path, iterations=1, optim=optim), QUIET)
    (row,) = logged(tmp_path)
    assert row["rewards/printable/mean"] == pytest.approx(2 * row["objective/scores"])
    assert row["rewards/only/mean"] == pytest.approx(3.0)


def upper(groups: Sequence[Group], batch: GroupBatch) -> Scores:
    """A cost: the share of tokens in the upper half of what is printable."""
    costly_CT = batch.mask_CT & (batch.targets_CT >= PRINTABLE // 2) & (batch.targets_CT < PRINTABLE)
    return Scores(costly_CT.sum(1) / batch.mask_CT.sum(1))


def tempting(groups: Sequence[Group], batch: GroupBatch) -> Scores:
    """What is printable is good, and what costs is twice as good."""
    return Scores(printable(groups, batch).scores_C + upper(groups, batch).scores_C)


def test_ppo_keeps_within_a_limit_of_cost_and_resumes(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "open_reward", lambda *_: tempting)
    monkeypatch.setattr(online, "open_cost", lambda *_: upper)
    limited = {"cost_model": "a cost", "cost_limit": 0.1, "cost_multiplier_rate": 5.0, "cost_window": 1}
    pace = {**NO_LEASH, "iterations": 24, "prompts_per_iteration": 10, "missing_end_penalty": None}
    pace |= {"optim": {"learning_rate": 2e-2, "schedule": "constant"}, "checkpoint_every": 6}
    found = {}
    for name, changes in {
        "free": {"cost_model": "a cost", "cost_multiplier": 1e-9},
        "limited": limited,
    }.items():
        config = online_config(world, "ppo", tmp_path / name, **pace, **changes)
        online.run(config, QUIET)
        found[name] = logged(config.out)
    mean = {
        key: sum(row[key] for row in found["limited"][-6:]) / 6
        for key in ("objective/costs", "objective/scores")
    }
    assert mean["objective/costs"] < 0.2 and mean["objective/scores"] > 0.5
    assert found["limited"][-1]["objective/cost_multiplier"] != 1.0
    assert sum(row["objective/costs"] for row in found["free"][-6:]) / 6 > mean["objective/costs"] + 0.3
    iterate = online.Online.iterate

    def cut(self: online.Online, number: int) -> dict[str, float]:
        if number == 8:
            raise RuntimeError("power cut")
        return iterate(self, number)

    config = config.model_copy(update={"out": tmp_path / "cut"})
    with monkeypatch.context() as patch:
        patch.setattr(online.Online, "iterate", cut)
        with pytest.raises(RuntimeError, match="power cut"):
            online.run(config, QUIET)
    online.run(config, QUIET)
    assert logged(config.out) == found["limited"]


@pytest.mark.parametrize("method", ["grpo", "online-dpo", "xpo"])
def test_another_reference_holds_the_policy(world: Path, tmp_path: Path, method: str) -> None:
    """The KL is to it from the first step on; with the model itself nothing changes."""
    tiny_llama(seed=2).save_pretrained(world / "other")
    tiny_tokenizer().save_pretrained(world / "other")
    found = {}
    for name in ("model", "other", None):
        reference = None if name is None else str(world / name)
        config = online_config(world, method, tmp_path / str(name), iterations=2, reference=reference)
        online.run(config, QUIET)
        found[name] = logged(config.out)
    assert found["model"] == found[None]
    assert found[None][0]["objective/kl"] == pytest.approx(0, abs=1e-3)
    assert found["other"][0]["objective/kl"] > 0.5 and found["other"][0]["objective/kl_k3"] > 0.5


@pytest.mark.parametrize("method", ["grpo", "online-dpo"])
def test_a_policy_that_is_not_its_reference_at_step_0_is_refused(
    world: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = online.build

    def disturbed(*arguments: Any) -> online.Online:
        state = build(*arguments)
        with torch.no_grad():
            for parameter in state.bench.trunk.parameters("policy").values():
                parameter.add_(0.05)
        return state

    monkeypatch.setattr(online, "build", disturbed)
    with pytest.raises(NumericsError, match="at step 0 the policy differs from its reference"):
        online.run(online_config(world, method, tmp_path), QUIET)


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("grpo", {"overlong_buffer": 7}, "overlong_buffer = 7 is longer than max_new_tokens = 6"),
        ("grpo", {"resample_rounds": 2}, "resample_rounds replaces groups that drop_equal_groups leaves out"),
        ("ppo", {"cost_model": "c", "critic": "policy"}, "cost_model needs a critic on frozen features"),
        ("reinforce++", {"baseline": "group", "k": 1}, "k must be at least 2"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(
    world: Path, tmp_path: Path, method: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        online.run(online_config(world, method, tmp_path, **changes), QUIET)


def test_every_method_has_a_command_of_its_name() -> None:
    import accord

    for schema, method in METHODS.items():
        assert accord.STAGES[method.name] == (schema.__name__, "accord.stages.online")
        assert getattr(settings, schema.__name__) is schema


# -------------------------------------------------------------------------------------------- the loop


def test_every_method_of_the_loop_has_its_section() -> None:
    methods = get_args(RunConfig.model_fields["method"].annotation)
    assert set(methods) == set(rounds.IMPROVE)
    for section, schema in rounds.IMPROVE.values():
        assert section in RunConfig.model_fields and schema in METHODS
    for name, (_, schema) in rounds.IMPROVE.items():
        assert METHODS[schema].name == name


def test_the_shipped_sections_are_valid(tmp_path: Path) -> None:
    run = read_config(RunConfig, quickstart_file(), ["--out", str(tmp_path), "--method", "grpo"])
    fixed = {"model": "m", "out": tmp_path, "prompts": "p", "reward_model": "r"}
    for section, schema in rounds.IMPROVE.values():
        assert settings.with_overrides(schema, section, getattr(run, section), **fixed)
    assert run.method == "grpo" and run.grpo and run.rloo


def test_the_loop_improves_by_the_method_that_is_asked_for(world: Path, tmp_path: Path) -> None:
    small = {"iterations": 1, "prompts_per_iteration": 2, "k": 2, "max_new_tokens": 5}
    values = {
        "model": str(world / "model"),
        "out": tmp_path / "run",
        "method": "reinforce++",
        "sft": {"epochs": 0.2},
        "sample": {"k": 2, "max_new_tokens": 5, "limit": 8},
        "ask": {"panel_size": 2},
        "reward": {"epochs": 0.5, "held_out": 0.5},
        "reinforce_plus_plus": small,
        "eval": {"best_of": 1, "raters": 1, "max_new_tokens": 5},
    }
    rounds.run(RunConfig.model_validate(values), QUIET)
    done = json.loads((tmp_path / "run" / "state.json").read_text())["done"]
    assert done["round-1/reinforce++"]["stage"] == "reinforce++" and "round-1/ppo" not in done
    assert json.loads((tmp_path / "run" / "report.json").read_text())["method"] == "reinforce++"


# ------------------------------------------------------------------------------------------- best of n


def best_config(world: Path, out: Path, **changes: Any) -> BestOfNConfig:
    values = {"model": str(world / "model"), "reward_model": "a rule", "out": out, "n": 6}
    more = {"prompts": str(world / "prompts.jsonl"), "max_new_tokens": 5, "missing_end_penalty": None}
    return BestOfNConfig.model_validate({**values, **more, **changes})


def test_best_of_n_keeps_the_best_and_says_what_it_costs(world: Path, tmp_path: Path) -> None:
    result = best_of_n.run(best_config(world, tmp_path), QUIET)
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").open()]
    kept = [json.loads(line)["messages"] for line in (tmp_path / "demonstrations.jsonl").open()]
    assert len(samples) == len(kept) == result["prompts"] == 10
    shares = [
        [sum(t < PRINTABLE for t in c["token_ids"]) / len(c["token_ids"]) for c in row["completions"]]
        for row in samples
    ]
    for row, scores, messages in zip(samples, shares, kept, strict=True):
        assert messages[-1]["content"] == row["completions"][scores.index(max(scores))]["text"]
    assert result["score_best"] == pytest.approx(sum(map(max, shares)) / 10)
    assert result["kl_bound"] == pytest.approx(math.log(6) - 5 / 6)
    assert [point["n"] for point in result["curve"]] == [1, 2, 4, 6]
    assert result["curve"][0]["score"] == pytest.approx(result["score_mean"])
    assert result["curve"][-1]["score"] == pytest.approx(result["score_best"])
    values = [point["score"] for point in result["curve"]]
    assert values == sorted(values) and values[-1] > values[0]


def test_rejection_sampling_fine_tunes_on_the_best(world: Path, tmp_path: Path) -> None:
    changes = {"n": 12, "max_new_tokens": 1}
    sft = {"epochs": 100, "optim": {"learning_rate": 1e-2}}
    result = best_of_n.run(best_config(world, tmp_path / "once", sft=sft, **changes), QUIET)
    again = best_of_n.run(best_config(world, tmp_path / "again", model=result["model"], **changes), QUIET)
    assert again["score_mean"] > result["score_mean"] + 0.2


def test_an_answer_without_an_end_is_not_the_best(world: Path, tmp_path: Path) -> None:
    result = best_of_n.run(best_config(world, tmp_path, missing_end_penalty=1.0), QUIET)
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").open()]
    endless = sum(all(c["finish_reason"] == "length" for c in row["completions"]) for row in samples)
    assert result["ended_by_themselves"] == pytest.approx(1 - endless / 10)
