"""The offline methods as stages on a tiny model: what was planted is learned, however a step is cut."""

from __future__ import annotations

import json
import random
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import accord
from accord import config as schemas
from accord.config import OfflineConfig
from accord.data.batches import collate
from accord.data.graded import Graded
from accord.data.render import Encoded
from accord.errors import ConfigError, DataError, NumericsError
from accord.records import Group, Prompt
from accord.stages import common, offline, reference
from accord.stages.pairs import Judged, Verdict, ranked
from tiny import tiny_llama, tiny_tokenizer

METHODS = [name for name, (_, module) in accord.STAGES.items() if module == "accord.stages.offline"]
# What each method needs to learn in a few steps here; the defaults are meant for real models.
OWN: dict[str, dict[str, Any]] = {
    "dpo": {},
    "cdpo": {},
    "robust-dpo": {},
    "ipo": {"form": "mean", "beta": 0.3},
    "kto": {"beta": 0.3},
    "orpo": {"beta": 1.0},
    "simpo": {},
    "cpo": {"beta": 0.5, "epochs": 4},
}


def said() -> tuple[Console, StringIO]:
    text = StringIO()
    return Console(file=text, width=400), text


def explained() -> set[str]:
    """The metrics that the documents explain."""
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([^`]+)` \|", text, flags=re.M))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs in which the answer with more z is always the chosen one, and the same as single answers."""
    folder = tmp_path_factory.mktemp("world")
    tiny_llama(seed=1).save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    rng = random.Random(0)

    def letters(last: str) -> str:
        return "".join(rng.choice("abc") for _ in range(rng.randint(2, 4))) + last

    pairs, single = [], []
    for i in range(24):
        for _ in range(1 + i % 2):  # some prompts have two pairs, and a row four answers
            chosen, rejected = letters("zz"), letters("b")
            pairs.append({"prompt": f"Say {i}", "chosen": chosen, "rejected": rejected})
            single.append({"prompt": f"Say {i}", "completion": chosen, "label": True})
            single.append({"prompt": f"Say {i}", "completion": rejected, "label": False})
    write(folder / "pairs.jsonl", pairs)
    write(folder / "single.jsonl", single)
    return folder


def settings(world: Path, out: Path, method: str = "dpo", **changes: Any) -> OfflineConfig:
    values = {
        "model": str(world / "base"),
        "data": str(world / "pairs.jsonl"),
        "out": out,
        "epochs": 2,
        "held_out": 0.25,
        "lora": {"r": 4},
        "optim": {"learning_rate": 1e-2, "schedule": "constant"},
        **OWN[method],
    }
    schema: type[OfflineConfig] = getattr(schemas, accord.STAGES[method][0])
    return schema.model_validate({**values, **changes})


def run(config: OfflineConfig) -> tuple[dict[str, Any], list[dict[str, float]], str]:
    console, text = said()
    result = offline.run(config, console)
    rows = [json.loads(line) for line in (config.out / "metrics.jsonl").open()]
    return result, rows, text.getvalue()


def test_every_method_is_tested_here() -> None:
    assert OWN.keys() == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls_and_a_planted_rule_is_learned(world: Path, tmp_path: Path, method: str) -> None:
    result, rows, _ = run(settings(world, tmp_path, method))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[0].keys() <= explained()
    gap = [row["rewards/chosen"] - row["rewards/rejected"] for row in rows]
    assert gap[-1] > gap[0]
    held_out = result["held_out"]
    assert held_out["prompts"] == 6 and result["prompts"] == 18
    accuracy = held_out["accuracy"]
    assert accuracy["value"] >= 0.9
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "model" / "accord.json").read_text())["stage"] == method
    assert (tmp_path / "reference.safetensors").exists() == settings(world, tmp_path, method).leashed


@pytest.mark.parametrize(("method", "start"), [("dpo", 0.6931), ("kto", 0.5), ("ipo", 1 / 0.36)])
def test_the_first_step_is_the_references_own(world: Path, tmp_path: Path, method: str, start: float) -> None:
    """Policy = reference: log 2 for DPO, one half for KTO, 1/(2τ)² for IPO, and rewards of zero."""
    _, rows, _ = run(settings(world, tmp_path, method, epochs=0.1))
    assert rows[0]["loss"] == pytest.approx(start, abs=1e-3)
    assert rows[0]["rewards/chosen"] == pytest.approx(0, abs=1e-4)


# --- how a step is cut cannot matter -----------------------------------------------------------------------


def trained(
    world: Path, out: Path, method: str, **changes: Any
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights after three steps in float64, and the gradient's length at each."""
    more = {"dtype": "float64", "epochs": 1, "held_out": 0.0, "save": "adapter", **changes}
    _, rows, _ = run(settings(world, out, method, **more))
    return load_file(out / "model" / "adapter_model.safetensors"), [row["grad_norm"] for row in rows]


@pytest.mark.parametrize("method", ["dpo", "kto", "orpo"])
def test_neither_micro_batches_nor_shared_prompts_change_the_gradient(
    world: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A large epsilon keeps Adam's step a smooth function of the gradient; norms are float32 even here.
    optim = {"learning_rate": 1e-2, "schedule": "constant", "adam_epsilon": 1e-3}
    whole, lengths = trained(
        world, tmp_path / "whole", method, optim={**optim, "tokens_per_microbatch": 9999}
    )
    single = trained(world, tmp_path / "single", method, optim={**optim, "tokens_per_microbatch": 1})
    monkeypatch.setattr(common, "supports_block_mask", lambda _: False)
    separate = trained(world, tmp_path / "separate", method, optim=optim)
    for weights, other_lengths in (single, separate):
        assert other_lengths == pytest.approx(lengths, rel=1e-6)
        for name, tensor in whole.items():
            torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-6)


# --- the reference ---------------------------------------------------------------------------------------


def test_the_reference_is_computed_once_for_a_model_and_its_data(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[int] = []
    compute = reference._compute

    def counted(*arguments: Any) -> torch.Tensor:
        times.append(1)
        return compute(*arguments)

    monkeypatch.setattr(reference, "_compute", counted)
    bench = common.open_bench(str(world / "base"), "float32")
    group = bench.renderer.group
    encoded = [
        group(offline.read_pairs(str(world / "pairs.jsonl"), False, said()[0])[i].group) for i in (0, 1)
    ]
    path, console = tmp_path / "reference.safetensors", said()[0]

    def logps(weights: str, what: list[Any]) -> list[torch.Tensor]:
        return reference.reference_logps(bench, what, weights=weights, tokens=64, path=path, console=console)

    first, again = logps("one", encoded), logps("one", encoded)
    assert len(times) == 1 and all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    logps("another model", encoded)
    logps("another model", encoded[:1])
    assert len(times) == 3
    path.write_bytes(path.read_bytes()[:40])  # cut short: computed again
    assert torch.allclose(logps("another model", encoded[:1])[0], first[0], atol=1e-5)
    assert len(times) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["reference.safetensors"]


def test_another_reference_holds_the_policy(world: Path, tmp_path: Path) -> None:
    """DPO at step 0 with π ≠ π_ref: rewards are β log π/π_ref from the start."""
    tiny_llama(seed=2).save_pretrained(world / "other")
    tiny_tokenizer().save_pretrained(world / "other")
    other = {"reference": str(world / "other"), "held_out": 0.0, "dtype": "float64", "batch_size": 24}
    _, rows, _ = run(settings(world, tmp_path / "dpo", epochs=1, **other))
    policy, held_to = (common.open_bench(str(world / name), "float64") for name in ("base", "other"))
    found = []
    for row in offline.read_pairs(str(world / "pairs.jsonl"), False, said()[0]):
        batch = collate([policy.renderer.group(row.group)])
        with torch.no_grad():
            ratio_C = reference.answer_logps(policy, None, batch)[0]
            ratio_C = 0.1 * (ratio_C - reference.answer_logps(held_to, None, batch)[0])
        found += [float(ratio_C[p.chosen]) for p in row.said]
    assert rows[0]["rewards/chosen"] == pytest.approx(sum(found) / len(found), rel=1e-6)
    assert abs(rows[0]["rewards/chosen"]) > 0.05
    with pytest.raises(ConfigError, match="--reference: simpo has none"):
        run(settings(world, tmp_path / "simpo", "simpo", reference="x"))


def test_the_hash_sees_every_weight() -> None:
    model = tiny_llama()
    before = reference.weights_hash(model)
    assert before == reference.weights_hash(tiny_llama())
    with torch.no_grad():
        next(model.parameters()).view(-1)[3].add_(1e-3)
    assert reference.weights_hash(model) != before


def test_a_reference_that_is_not_the_policys_start_is_refused(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = reference._compute
    monkeypatch.setattr(reference, "_compute", lambda *arguments: compute(*arguments) - 1.0)
    with pytest.raises(NumericsError, match="at step 0 the policy differs from its reference"):
        run(settings(world, tmp_path))


def test_ktos_baseline_is_the_mean_log_ratio_of_answers_to_other_prompts(world: Path, tmp_path: Path) -> None:
    config, console = settings(world, tmp_path, "kto", max_length=30), said()[0]
    bench = common.open_bench(config.model, config.dtype)
    judged = offline.read_verdicts(config.data, False, console)
    kept = [(j, bench.renderer.group(j.group)) for j in judged]
    state, _, _ = offline.build(config, bench, kept, console)
    for i, (row, other) in enumerate(zip(state.train, state.mismatched, strict=True)):
        assert other.encoded.prompt_ids == row.encoded.prompt_ids
        stranger, room = state.train[(i + 1) % len(state.train)], 30 - len(row.encoded.prompt_ids)
        assert stranger.judged.group.prompt != row.judged.group.prompt
        assert other.encoded.completion_ids == tuple(ids[:room] for ids in stranger.encoded.completion_ids)

    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():  # a policy that has left its reference
        for name, parameter in bench.trunk.parameters("policy").items():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=rng)
        ratios = []
        for encoded in (row.encoded for row in state.mismatched):
            for ids in encoded.completion_ids:
                batch = collate([Encoded(encoded.prompt_ids, (ids,))])
                policy_C, ref_C = (reference.answer_logps(bench, who, batch)[0] for who in ("policy", None))
                ratios.append(float(policy_C - ref_C))
    mean = sum(ratios) / len(ratios)
    assert mean > 0.1
    assert state.baseline(state.mismatched) == pytest.approx(mean, abs=1e-4)


def test_full_fine_tuning_keeps_its_reference(world: Path, tmp_path: Path) -> None:
    _, rows, _ = run(settings(world, tmp_path, lora=None, optim={"learning_rate": 1e-3}))
    assert rows[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert rows[-1]["rewards/margins"] > 0.05


# --- settings and data -------------------------------------------------------------------------------------


def test_an_sft_term_is_added_and_logged(world: Path, tmp_path: Path) -> None:
    _, rows, _ = run(settings(world, tmp_path, sft_coef=0.5, epochs=0.1))
    assert rows[0]["loss"] == pytest.approx(
        rows[0]["loss/preference_avg"] + 0.5 * rows[0]["loss/sft_avg"], rel=1e-5
    )
    assert rows[0]["loss/sft_avg"] > 1


def test_a_method_takes_only_its_own_settings(world: Path, tmp_path: Path) -> None:
    files = {"model": "m", "data": "d", "out": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"dpo.label_smoothing: unknown setting"):
        accord.dpo(**files, label_smoothing=0.1)
    with pytest.raises(ConfigError, match=r"kto.sft_coef: unknown setting"):
        accord.kto(**files, sft_coef=1.0)
    assert settings(world, tmp_path, "simpo").own() == {"beta": 2.0, "gamma": 1.0, "label_smoothing": 0.0}


def test_kto_makes_verdicts_of_pairs_and_dpo_pairs_of_verdicts(world: Path, tmp_path: Path) -> None:
    of_pairs, _, told = run(settings(world, tmp_path / "a", "kto", epochs=0.1))
    assert "each chosen answer counts as good, each rejected one as bad" in told
    single = str(world / "single.jsonl")
    of_single, _, told = run(settings(world, tmp_path / "b", "kto", epochs=0.1, data=single))
    assert "72 of 72 rows used" in told
    assert of_pairs["verdicts"] == of_single["verdicts"] > 36
    crossed, _, told = run(settings(world, tmp_path / "c", "dpo", epochs=0.1, data=single, held_out=0.0))
    assert "each good one is paired with each bad one of its prompt: 60 pairs, 0 of 24" in told
    assert crossed["pairs"] == 12 * 1 + 12 * 4


def test_dpo_makes_pairs_of_rankings_and_kto_says_that_it_cannot(world: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Say {i}", "completions": ["a", "b", "c"], "ranking": [2, 1, 2], "weight": 3.0}
        for i in range(4)
    ]
    data = str(write(tmp_path / "rankings.jsonl", rows))
    result, _, told = run(settings(world, tmp_path / "a", data=data, epochs=0.25, held_out=0.0))
    assert "rankings; each answer is paired with each lower one: 8 pairs" in told
    assert result["pairs"] == 8
    with pytest.raises(DataError, match=r"rankings do not say which answers are good.*use `accord dpo`"):
        run(settings(world, tmp_path / "b", "kto", data=data))
    tied = str(write(tmp_path / "tied.jsonl", [{**row, "ranking": [1, 1, 1]} for row in rows]))
    with pytest.raises(DataError, match="all answers of all rankings are tied"):
        run(settings(world, tmp_path / "c", data=tied))


def test_a_ranking_weighs_the_same_however_many_pairs_it_makes() -> None:
    prompt = Prompt.of("?")
    (row,) = ranked(
        [Graded(prompt, ("a", "b", "c"), (1, 2, 3), 6.0), Graded(prompt, ("b", "c", "d"), (2, 2, 1))]
    )
    texts = [c.text for c in row.group.completions]
    assert [(texts[p.chosen], texts[p.rejected], p.weight) for p in row.said] == [
        ("a", "b", 2.0),
        ("a", "c", 2.0),
        ("b", "c", 2.0),
        ("d", "b", 0.5),
        ("d", "c", 0.5),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"messages": [{"role": "user", "content": "Q"}]},
            "These are demonstrations, for `accord sft`. Known",
        ),
        ({"prompt": "Q", "completion": "a"}, "These are demonstrations, for `accord sft`. Known"),
        ({"text": "a"}, "These are plain text, for `accord pretrain`. Known"),
        ({"prompt": "Q", "completions": ["a"], "labels": [1]}, "for `accord reward --loss process`. Known"),
        ({"strange": "a"}, "Columns found: strange. Known here: preference"),
    ],
)
def test_data_of_another_kind_is_called_by_its_name(
    world: Path, tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    data = str(write(tmp_path / "rows.jsonl", [row]))
    with pytest.raises(DataError, match=message):
        run(settings(world, tmp_path / "a", data=data))


def test_data_that_cannot_be_compared_is_explained(world: Path, tmp_path: Path) -> None:
    good = [{"prompt": f"Say {i}", "completion": "z", "label": True} for i in range(4)]
    data = str(write(tmp_path / "good.jsonl", good))
    with pytest.raises(DataError, match=r"no prompt has both a good and a bad one.*use `accord kto`"):
        run(settings(world, tmp_path / "a", data=data))
    _, _, told = run(settings(world, tmp_path / "b", "kto", data=data, epochs=0.1))
    assert "all answers are good" in told
    one = str(write(tmp_path / "one.jsonl", good[:1]))
    with pytest.raises(DataError, match="KTO needs at least two prompts"):
        run(settings(world, tmp_path / "c", "kto", data=one, held_out=0.0))
    tie = {"prompt": "Say 1", "chosen": "a", "rejected": "b", "tie": True}
    ties = str(write(tmp_path / "ties.jsonl", [tie]))
    with pytest.raises(DataError, match="all 1 preferences are ties"):
        run(settings(world, tmp_path / "d", data=ties))


def test_unequal_numbers_of_good_and_bad_are_pointed_out(world: Path, tmp_path: Path) -> None:
    single = [json.loads(line) for line in (world / "single.jsonl").open()]
    few = [r for i, r in enumerate(single) if not r["label"] or i % 4 == 0]
    data = str(write(tmp_path / "few.jsonl", few))
    _, _, told = run(settings(world, tmp_path / "a", "kto", data=data, epochs=0.1, held_out=0.0))
    assert "good answers pull 0.5" in told and "--desirable_weight" in told


def test_kto_pairs_each_prompt_with_anothers_answers_once() -> None:
    """However often they were judged, and cut to the room that is left."""
    judged = Judged(Group.of(Prompt.of("?"), "a", "b"), tuple(Verdict(0, True, 1.0) for _ in range(9)))
    rows = [(judged, Encoded((1, 2), ((3,), (4, 5)))), (judged, Encoded((1,) * 9, ((6, 7, 8),)))]
    assert [m.completion_ids for m in offline.mismatch(rows, 2, 10)] == [((6, 7, 8),), ((3,), (4,))]
    with pytest.raises(DataError, match="at least two prompts"):
        offline.mismatch(rows[:1], 1, 10)
