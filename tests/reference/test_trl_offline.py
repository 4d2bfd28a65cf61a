"""Losses on answers that are there already: TRL's own code and ours on the same log-probabilities.

The same losses and the same gradients; where they differ, a test says on what purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from accord.objectives import OFFLINE
from accord.objectives.kto import kl_baseline, kto_loss
from accord.objectives.pairs import PairLogps, chosen_nll
from accord.objectives.terms import add
from accord.records import Terms
from reference.trl_trainers import (
    LONGEST,
    CPOTrainer,
    DPOTrainer,
    KTOTrainer,
    ORPOTrainer,
    assert_differs_from_trl,
    assert_equals_trl,
    bare,
)

FAST = settings(max_examples=40, deadline=None)
SEED = st.integers(0, 2**31 - 1)
BETA = st.floats(0.05, 1)


class Answers:
    """Answers of 1 to T tokens behind a prompt of one: their log-probs, the reference's, and their mask."""

    def __init__(self, seed: int, count: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.lengths_C = torch.randint(1, LONGEST + 1, (count,), generator=draw)
        self.mask_CT = torch.arange(LONGEST) < self.lengths_C[:, None]
        values = torch.randn(4, count, LONGEST, generator=draw, dtype=torch.float64)
        self.logps_CT = (-2 + 0.5 * values[0]).requires_grad_()
        self.ref_CT = self.logps_CT.detach() + 0.5 * values[1]
        self.strange_CT, self.strange_ref_CT = values[2], values[2] + 0.3 * values[3]
        self.good_C = torch.rand(count, generator=draw) < 0.5

    def summed(self, x_CT: Tensor) -> Tensor:
        return torch.where(self.mask_CT, x_CT, 0.0).sum(1)

    @property
    def completion_mask(self) -> Tensor:
        """As TRL's collators have it: over the prompt's token too."""
        return torch.cat([torch.zeros(len(self.mask_CT), 1), self.mask_CT], 1).long()

    def forward(self, tables: dict[int, Tensor]) -> Callable[..., Any]:
        """A model's call in TRL: the log-probs of the labelled tokens, chosen by the first token's number."""

        def call(input_ids: Tensor, labels: Tensor, **_: Any) -> Any:
            logps_CT = torch.where(labels[:, 1:] != -100, tables[int(input_ids[0, 0])], 0.0)
            none_CT = torch.zeros_like(logps_CT)
            return SimpleNamespace(
                log_probs=logps_CT, entropy=none_CT, mean_logits=none_CT, is_top1=none_CT.bool()
            )

        return call


def our_kto(a: Answers, rows: slice = slice(None), **own: Any) -> Terms:
    logps_C, ref_C = a.summed(a.logps_CT)[rows], a.summed(a.ref_CT)[rows]
    strange, strange_ref = a.summed(a.strange_CT)[rows], a.summed(a.strange_ref_CT)[rows]
    baseline = float(kl_baseline(strange, strange_ref))
    return kto_loss(logps_C, ref_C, good_C=a.good_C[rows], baseline=baseline, **own)


def trls_kto(a: Answers, rows: slice = slice(None), **own: Any) -> tuple[Tensor, dict[str, list[float]]]:
    trainer = bare(
        KTOTrainer,
        loss_type="kto",
        calculate_KL=True,
        precompute_ref_logps=True,
        _total_train_tokens=0,
        _tp_size=1,
        **own,
    )
    mask = a.completion_mask[rows]
    batch = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "KL_input_ids": torch.ones_like(mask),
        "KL_attention_mask": torch.ones_like(mask),
        "KL_completion_mask": mask,
        "label": a.good_C[rows],
        "ref_logps": a.summed(a.ref_CT)[rows],
        "ref_KL_logps": a.summed(a.strange_ref_CT)[rows],
    }
    model = a.forward({0: a.logps_CT[rows], 1: a.strange_CT[rows]})
    return trainer._compute_loss(model, batch, False), trainer._metrics["train"]


@given(seed=SEED, count=st.integers(1, 9), beta=BETA, good=st.floats(0.2, 3), bad=st.floats(0.2, 3))
@FAST
def test_kto(seed: int, count: int, beta: float, good: float, bad: float) -> None:
    """The loss, its gradient, the baseline, and all metrics of a name that both have."""
    answers = Answers(seed, count)
    own = {"beta": beta, "desirable_weight": good, "undesirable_weight": bad}
    ours, (theirs, metrics) = our_kto(answers, **own), trls_kto(answers, **own)
    assert_equals_trl(ours.loss / count, theirs, answers.logps_CT)
    shared = ours.metrics.keys() & metrics.keys()
    assert shared >= {"kl", "rewards/chosen" if bool(answers.good_C.any()) else "rewards/rejected"}
    for name in shared:
        total, weight = (float(x) for x in ours.metrics[name])
        assert total / weight == pytest.approx(metrics[name][0], rel=1e-6, abs=1e-9), name


def test_ktos_baseline_is_of_the_step_where_trls_is_of_the_micro_batch() -> None:
    """Deliberate: z₀ of two answers is noise, and a step must not depend on how it was cut."""
    answers, own = Answers(5, 8), {"beta": 0.5, "desirable_weight": 1.0, "undesirable_weight": 1.0}
    answers.strange_CT[:4] += 0.5
    halves = [slice(0, 4), slice(4, 8)]
    whole = our_kto(answers, **own).loss / 8
    assert_equals_trl(whole, trls_kto(answers, **own)[0], answers.logps_CT)
    cut = [trls_kto(answers, half, **own)[0] for half in halves]
    assert_differs_from_trl(whole, (cut[0] + cut[1]) / 2)


def pair_logps(a: Answers) -> PairLogps:
    """The first half of the answers are chosen over the second."""
    logps, refs, lengths = a.summed(a.logps_CT), a.summed(a.ref_CT), a.lengths_C.double()
    return PairLogps(*logps.chunk(2), *refs.chunk(2), *lengths.chunk(2))


def trls_dpo(a: Answers, loss_type: str, beta: float, label_smoothing: float = 0.0) -> Tensor:
    trainer = bare(
        DPOTrainer,
        beta=beta,
        label_smoothing=label_smoothing,
        loss_types=[loss_type],
        loss_weights=[1.0],
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        use_weighting=False,
        precompute_ref_logps=True,
        _total_train_tokens=0,
        _tp_size=1,
    )
    chosen, rejected = a.summed(a.ref_CT).chunk(2)
    mask = a.completion_mask
    batch = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    return trainer._compute_loss(a.forward({0: a.logps_CT}), batch, False)


@given(seed=SEED, pairs=st.integers(1, 5), beta=BETA, epsilon=st.floats(0, 0.4))
@FAST
def test_dpo_robust_dpo_and_ipo(seed: int, pairs: int, beta: float, epsilon: float) -> None:
    answers = Answers(seed, 2 * pairs)
    for name, loss_type, own in (
        ("dpo", "sigmoid", {}),
        ("robust-dpo", "robust", {"label_smoothing": epsilon}),
        ("ipo", "ipo", {"form": "mean"}),
    ):
        ours = OFFLINE[name](pair_logps(answers), beta=beta, **own).loss / pairs
        theirs = trls_dpo(answers, loss_type, beta, own.get("label_smoothing", 0.0))
        assert_equals_trl(ours, theirs, answers.logps_CT)


def test_cdpo_smooths_where_trls_sigmoid_does_not() -> None:
    """Deliberate: TRL 1.16 reads label_smoothing for other losses alone. IPO's default is another too."""
    answers = Answers(3, 6)
    smoothed = OFFLINE["cdpo"](pair_logps(answers), beta=0.3, label_smoothing=0.2).loss / 3
    assert_differs_from_trl(smoothed, trls_dpo(answers, "sigmoid", 0.3, 0.2))
    whole_answers = OFFLINE["ipo"](pair_logps(answers), beta=0.3).loss / 3
    assert_differs_from_trl(whole_answers, trls_dpo(answers, "ipo", 0.3))


@given(seed=SEED, pairs=st.integers(1, 5), beta=BETA, gamma=st.floats(0, 2), epsilon=st.floats(0, 0.4))
@FAST
def test_cpo_and_simpo(seed: int, pairs: int, beta: float, gamma: float, epsilon: float) -> None:
    answers = Answers(seed, 2 * pairs)
    ours = pair_logps(answers)
    own = {"beta": beta, "label_smoothing": epsilon}
    cpo = bare(CPOTrainer, loss_type="sigmoid", alpha=0.0, **own)
    theirs, *_ = cpo.cpo_loss(ours.chosen_P, ours.rejected_P)
    assert_equals_trl(OFFLINE["cpo"](ours, **own).loss / pairs, theirs.mean(), answers.logps_CT)

    simpo = bare(CPOTrainer, loss_type="simpo", alpha=0.0, simpo_gamma=gamma, **own)
    theirs, *_ = simpo.cpo_loss(*ours.mean_logps)
    assert_equals_trl(
        OFFLINE["simpo"](ours, gamma=gamma, **own).loss / pairs, theirs.mean(), answers.logps_CT
    )


@given(seed=SEED, pairs=st.integers(1, 5), beta=BETA)
@FAST
def test_orpo(seed: int, pairs: int, beta: float) -> None:
    """TRL casts to float32 here, and its losses are gains."""
    answers = Answers(seed, 2 * pairs)
    ours = pair_logps(answers)
    gains, *_ = bare(ORPOTrainer, beta=beta).odds_ratio_loss(*ours.mean_logps)
    assert_equals_trl(
        OFFLINE["orpo"](ours, beta=beta).loss / pairs, -gains.mean(), answers.logps_CT, rel=1e-5
    )


def whole_losses(trainer: Any, lengths: tuple[int, int]) -> tuple[Tensor, PairLogps]:
    """TRL's loss with its SFT term, from logits over three tokens, and the same pairs for us.

    Two pairs; prompts of two tokens; `lengths` are those of the two chosen answers.
    """
    torch.manual_seed(0)
    logits_CLV = torch.randn(4, 6, 3, dtype=torch.float64)
    ids = torch.randint(0, 3, (4, 6))
    ends = torch.tensor([*lengths, 3, 2]) + 2
    there = torch.arange(6) < ends[:, None]
    labels = ids.masked_fill(~there | (torch.arange(6) < 2), -100)
    batch = {}
    for name, rows in (("chosen", slice(0, 2)), ("rejected", slice(2, 4))):
        batch |= {
            f"{name}_input_ids": ids[rows],
            f"{name}_attention_mask": there[rows].long(),
            f"{name}_labels": labels[rows],
        }
    trainer.is_encoder_decoder = False
    loss, _ = trainer.get_batch_loss_metrics(lambda *_, **__: SimpleNamespace(logits=logits_CLV), batch)
    sums = trainer.get_batch_logps(logits_CLV, labels, average_log_prob=False)
    none = torch.zeros(2)
    return loss, PairLogps(*sums.chunk(2), none, none, *(ends - 2).double().chunk(2))


@pytest.mark.parametrize("name", ["cpo", "simpo"])
def test_the_sft_term_is_a_mean_over_answers_where_trls_is_one_over_tokens(name: str) -> None:
    """Deliberate: a long demonstration counts no more than a short one. Of equal lengths, both agree."""
    own = {"beta": 0.4} | ({"gamma": 0.7} if name == "simpo" else {})

    def both(lengths: tuple[int, int]) -> tuple[Tensor, Tensor]:
        trainer = bare(
            CPOTrainer,
            loss_type="sigmoid" if name == "cpo" else "simpo",
            alpha=0.0,
            cpo_alpha=1.0,
            simpo_gamma=0.7,
            label_smoothing=0.0,
            beta=0.4,
            pad_token_id=0,
        )
        theirs, pairs = whole_losses(trainer, lengths)
        return add(OFFLINE[name](pairs, **own), chosen_nll(pairs)).loss / 2, theirs

    ours, theirs = both((3, 3))
    assert float(ours) == pytest.approx(float(theirs), rel=1e-9)
    assert_differs_from_trl(*both((1, 4)))


def test_orpos_sft_term_is_of_the_answer_where_trls_is_of_the_prompt_too() -> None:
    """Deliberate: the policy is not taught to write its user's prompts. So it differs at equal lengths."""
    theirs, pairs = whole_losses(bare(ORPOTrainer, beta=0.4, padding_value=0), (3, 3))
    assert_differs_from_trl(add(OFFLINE["orpo"](pairs, beta=0.4), chosen_nll(pairs)).loss / 2, theirs)
