"""From sampled answers to rollouts: scores, reference log-probs, what a critic reads.

All arithmetic of an iteration happens on one padded tensor per quantity, C answers by T tokens; only the
passes through the models are cut into micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from accord.config import OnlineConfig
from accord.data.batches import GroupBatch, in_batches
from accord.data.render import Encoded
from accord.errors import NumericsError
from accord.models.forward import hidden_states, token_logps
from accord.models.heads import head_dtype
from accord.objectives.grpo import varied_groups
from accord.objectives.importance import mismatch_kl
from accord.objectives.kl import k3
from accord.objectives.ppo import missing_end_penalty
from accord.records import Group
from accord.rewards.scorer import Scorer, Scores
from accord.stages.common import Bench
from accord.stages.critic import Critic
from accord.stages.reference import start_tolerance
from accord.training.lanes import each, lanes
from accord.training.run import Metrics

POLICY = "policy"
MISMATCH_MAX = 0.05  # nats per token; rounding in half precision makes some 0.001, another model far more
MISMATCH_CAUSE = {
    "vllm": "a server must hold the model that the policy starts from, and be started with --logprobs-mode "
    "processed_logprobs (raw_logprobs with top_p below 1)",
    "local": "this model does not stand sampler_precision bfloat16, leave it out",
    "dtype": "this model does not stand half precision, set dtype to float32",
}
REFERENCE = "reference"  # the policy version of answers that the reference drew


@dataclass(frozen=True)
class Rollouts:
    """One iteration's answers with all that credit and update need; made once, never changed.

    C answers (groups in order, each group's answers in order), T the longest in tokens, D hidden size.
    """

    groups: Sequence[Group]
    encoded: Sequence[Encoded]
    group_C: Tensor  # which group each answer belongs to
    own_C: Tensor  # bool: drawn by the policy (not by the reference, as half of XPO's are)
    finished_C: Tensor  # bool: ended by itself
    mask_CT: Tensor
    sampler_logps_CT: Tensor  # as the sampler recorded them, at the sampling temperature
    logps_CT: Tensor  # the old policy's: the sampler's, or the trainer's where importance is weighed
    ref_logps_CT: Tensor
    scores_C: Tensor  # the reward model's, before penalty and KL
    rewards_C: Tensor  # with the penalty for answers without an end
    features_CTD: Tensor | None  # what a critic on frozen features reads
    values_CT: Tensor  # zeros without a critic
    costs_C: Tensor | None = None  # by a cost model, and what a critic expects of it
    cost_values_CT: Tensor | None = None
    multiplier: float = 0.0  # the price of a unit of cost
    score_parts: Mapping[str, Tensor] = field(default_factory=dict)  # by name (C,), where scores are combined


@dataclass(frozen=True)
class Part:
    """A micro-batch: the tokens, and which rows of the iteration's tensors they are."""

    batch: GroupBatch
    rows_C: Tensor
    groups: Sequence[int]

    def take(self, full: Tensor) -> Tensor:
        """This part's rows of a (C, T, ...) tensor, cut to the part's own longest answer."""
        return full[self.rows_C, : self.batch.mask_CT.shape[1]]


@dataclass(frozen=True)
class Seen:
    """What the passes over a part found: tensors of its own rows, as wide as its own longest answer."""

    ref_logps_CT: Tensor
    logps_CT: Tensor | None  # the trainer's, where importance is weighed
    scores: Scores
    costs_C: Tensor | None
    states_CTD: Tensor | None  # what a critic reads


def joined(
    parts: Sequence[Part],
    shape: torch.Size,
    dtype: torch.dtype,
    values: Sequence[Tensor | None],
    fill: float = 0.0,
) -> Tensor:
    """One tensor (C, ...) or (C, T, ...), (C, T) being `shape`, from those of the parts, else `fill`."""
    first = next(value for value in values if value is not None)
    size = shape[:1] if first.dim() == 1 else (*shape, *first.shape[2:])
    full = torch.full(size, fill, dtype=dtype)
    for part, value in zip(parts, values, strict=True):
        if value is None:
            continue
        if value.dim() == 1:
            full[part.rows_C] = value.to(dtype)
        else:
            full[part.rows_C, : value.shape[1]] = value.to(dtype)
    return full


@dataclass(frozen=True)
class Passes:
    """The passes through the models that an iteration needs."""

    config: OnlineConfig
    bench: Bench
    scorer: Scorer
    critic: Critic | None
    cost: Scorer | None = None
    cost_critic: Critic | None = None
    reference: Bench | None = None  # other than the model that the policy starts from

    def parts(
        self, encoded: Sequence[Encoded], rows: Sequence[Sequence[int]], chosen: Sequence[int]
    ) -> list[Part]:
        """Micro-batches over the chosen groups; `rows` are the places of each group's answers."""
        found, own = [], [encoded[i] for i in chosen]
        budget, shared = self.config.optim.tokens_per_microbatch, self.bench.shared
        for indices, batch in in_batches(own, budget, shared=shared, lanes=lanes()):
            groups = [chosen[i] for i in indices]
            found.append(Part(batch, torch.tensor([row for g in groups for row in rows[g]]), groups))
        return found

    def hidden(self, name: str | None, batch: GroupBatch) -> Tensor:
        with self.bench.trunk.use(name) as model:
            return hidden_states(model, batch)

    def logps(self, name: str | None, batch: GroupBatch, bench: Bench | None = None) -> tuple[Tensor, Tensor]:
        """(hidden states, log-probs) through adapter `name`, at the sampling temperature."""
        with (bench or self.bench).trunk.use(name) as model:
            hidden_FD = hidden_states(model, batch)
            logps_CT, _ = token_logps(
                model,
                hidden_FD,
                batch.where_CT,
                batch.targets_CT,
                batch.mask_CT,
                temperature=self.config.temperature,
            )
        return hidden_FD, logps_CT

    @torch.no_grad()
    def roll_out(self, groups: Sequence[Group], *, recompute: bool, first: bool) -> Rollouts:
        """Score the groups and read off what the update needs.

        With `recompute` the old log-probs are the trainer's instead of the sampler's. `first` says that the
        policy must still be its reference, which is then checked.
        """
        encoded = [self.bench.renderer.group(g) for g in groups]
        answers = [c for g in groups for c in g.completions]
        lengths_C = torch.tensor([len(ids) for e in encoded for ids in e.completion_ids])
        mask_CT = torch.arange(int(lengths_C.max())) < lengths_C[:, None]
        dtype = head_dtype(self.bench.loaded.model.dtype)
        sampled_CT = torch.zeros(mask_CT.shape, dtype=dtype)
        for row, answer in enumerate(answers):
            sampled_CT[row, : len(answer.logps)] = torch.tensor(answer.logps, dtype=dtype)
        own_C = torch.tensor([c.policy_version != REFERENCE for c in answers])

        parts = self.parts(encoded, answer_rows(encoded), range(len(encoded)))
        seen = each(partial(self.see, groups, recompute), parts)
        whole = partial(joined, parts, mask_CT.shape, dtype)
        ref_logps_CT, scores_C = (
            whole([s.ref_logps_CT for s in seen]),
            whole([s.scores.scores_C for s in seen]),
        )
        if first:
            for part in parts:
                self.check_start(part, sampled_CT, ref_logps_CT, own_C[part.rows_C])
        finished_C = torch.tensor([c.finish_reason == "stop" for c in answers])
        names = sorted({name for s in seen for name in s.scores.parts})
        rollouts = Rollouts(
            groups=groups,
            encoded=encoded,
            group_C=torch.tensor([g for g, e in enumerate(encoded) for _ in e.completion_ids]),
            own_C=own_C,
            finished_C=finished_C,
            mask_CT=mask_CT,
            sampler_logps_CT=sampled_CT,
            logps_CT=whole([s.logps_CT for s in seen]) if recompute else sampled_CT,
            ref_logps_CT=ref_logps_CT,
            scores_C=scores_C,
            rewards_C=self.rewards(scores_C, finished_C),
            features_CTD=None,
            values_CT=torch.zeros_like(sampled_CT),
            costs_C=None if self.cost is None else whole([s.costs_C for s in seen]),
            score_parts={n: whole([s.scores.parts.get(n) for s in seen], fill=torch.nan) for n in names},
        )
        return self.valued(rollouts, whole([s.states_CTD for s in seen])) if self.critic else rollouts

    def see(self, groups: Sequence[Group], recompute: bool, part: Part) -> Seen:
        """The passes over one part of the answers."""
        batch, own = part.batch, [groups[i] for i in part.groups]
        ref_hidden_FD, ref_logps_CT = self.logps(None, batch, self.reference)
        logps_CT = self.logps(POLICY, batch)[1] if recompute else None
        scores, states_CTD = self.scorer(own, batch), None
        if self.critic is not None:
            trained_apart = self.critic.engine is not None
            features = self.critic.features
            hidden_FD = (
                features(ref_hidden_FD, scores.hidden_FD) if trained_apart else self.hidden(POLICY, batch)
            )
            states_CTD = hidden_FD[batch.where_CT]
        costs_C = None if self.cost is None else self.cost(own, batch).scores_C
        return Seen(ref_logps_CT, logps_CT, replace(scores, hidden_FD=None), costs_C, states_CTD)

    def valued(self, r: Rollouts, states_CTD: Tensor) -> Rollouts:
        """With what the critics expect; the states are kept where a critic is trained on them."""
        assert self.critic is not None
        values_CT = self.critic.head(states_CTD) * r.mask_CT
        if self.critic.engine is None:
            return replace(r, values_CT=values_CT)
        costs_CT = None if self.cost_critic is None else self.cost_critic.head(states_CTD) * r.mask_CT
        return replace(r, values_CT=values_CT, features_CTD=states_CTD, cost_values_CT=costs_CT)

    def rewards(self, scores_C: Tensor, finished_C: Tensor) -> Tensor:
        """The scores, with the penalty for answers that did not end."""
        penalty = self.config.missing_end_penalty
        if penalty is None:
            return scores_C
        return missing_end_penalty(scores_C, finished_C, penalty, mode="replace")

    def check_start(self, part: Part, sampled_CT: Tensor, ref_logps_CT: Tensor, own_C: Tensor) -> None:
        """Before the first update the policy is the model it starts from, exactly, and the sampler is it to
        rounding: ratio 1, and KL 0 unless another reference was given."""
        (_, start_CT), (_, logps_CT) = self.logps(None, part.batch), self.logps(POLICY, part.batch)
        drift = float((logps_CT - start_CT).abs().max())
        if drift != 0.0:
            whom = "its reference" if self.reference is None else "the model it starts from"
            raise NumericsError(f"at step 0 the policy differs from {whom} by {drift:.2e} nats in a token")
        drawn_by_CT = torch.where(own_C[:, None], logps_CT, part.take(ref_logps_CT))
        half = self.bench.loaded.model.dtype in (torch.bfloat16, torch.float16)
        if self.config.mismatched or half:  # coarse rounding: no token tells anything, their mean does
            kl = float(mismatch_kl(drawn_by_CT, part.take(sampled_CT), part.batch.mask_CT))
            if not kl <= MISMATCH_MAX:
                cause = MISMATCH_CAUSE["dtype" if half else self.config.sampler]
                raise NumericsError(
                    f"the sampler's and the trainer's log-probs differ by a KL of {kl:.2e} nats per token "
                    f"before the first update: {cause}"
                )
            return
        gap = float(((drawn_by_CT - part.take(sampled_CT)) * part.batch.mask_CT).abs().max())
        if not gap <= start_tolerance(self.bench):
            raise NumericsError(
                f"the sampler's and the trainer's log-probs differ by {gap:.2e} nats in a token"
            )


def join(parts: Sequence[tuple[Rollouts, Sequence[int]]]) -> Rollouts:
    """One iteration's rollouts from the chosen groups of several samplings, in order."""
    longest = max(r.mask_CT.shape[1] for r, _ in parts)
    groups = [r.groups[g] for r, chosen in parts for g in chosen]
    encoded = [r.encoded[g] for r, chosen in parts for g in chosen]
    places = [torch.tensor([p for g in chosen for p in answer_rows(r.encoded)[g]]) for r, chosen in parts]

    def joined(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(
            [
                nn.functional.pad(x[p], (0, 0) * (x.dim() - 2) + (0, longest - x.shape[1]))
                if x.dim() > 1
                else x[p]
                for x, p in zip(tensors, places, strict=True)
            ]
        )

    first = parts[0][0]
    named = {f.name: [getattr(r, f.name) for r, _ in parts] for f in fields(Rollouts)}
    tensors: dict[str, Any] = {
        name: joined(found) for name, found in named.items() if isinstance(found[0], Tensor)
    }
    if first.logps_CT is first.sampler_logps_CT:  # as `summarise` tells that they were not computed again
        tensors["logps_CT"] = tensors["sampler_logps_CT"]
    tensors["group_C"] = torch.tensor([g for g, e in enumerate(encoded) for _ in e.completion_ids])
    scores = {name: joined([r.score_parts[name] for r, _ in parts]) for name in first.score_parts}
    return replace(first, groups=groups, encoded=encoded, score_parts=scores, **tensors)


def answer_rows(encoded: Sequence[Encoded]) -> list[list[int]]:
    """The places of each group's answers among all answers."""
    found, start = [], 0
    for group in encoded:
        found.append(list(range(start, start + len(group.completion_ids))))
        start += len(group.completion_ids)
    return found


def selected(encoded: Sequence[Encoded], keep_C: Tensor) -> tuple[list[Encoded], list[list[int]]]:
    """The groups with only the answers that are kept, and these answers' places; emptied groups are gone."""
    groups, rows = [], []
    for group, places in zip(encoded, answer_rows(encoded), strict=True):
        kept = [place for place in places if keep_C[place]]
        if kept:
            ids = tuple(group.completion_ids[place - places[0]] for place in kept)
            groups.append(Encoded(group.prompt_ids, ids))
            rows.append(kept)
    return groups, rows


def summarise(r: Rollouts, kl_coef: float) -> Metrics:
    """The iteration in TRL's names; KL and reward are means over the policy's answers, in nats and units."""
    mask_CT = r.mask_CT[r.own_C]
    logps_CT, ref_logps_CT, scores_C = r.logps_CT[r.own_C], r.ref_logps_CT[r.own_C], r.scores_C[r.own_C]
    kl = float(((logps_CT - ref_logps_CT) * mask_CT).sum(1).mean())
    metrics = {
        "objective/kl": kl,
        "objective/kl_k3": float((k3(logps_CT, ref_logps_CT) * mask_CT).sum(1).mean()),
        "objective/entropy": float(-(logps_CT * mask_CT).sum(1).mean()),
        "objective/scores": float(scores_C.mean()),
        "objective/scores_std": float(scores_C.std()),
        "objective/rlhf_reward": float(scores_C.mean()) - kl_coef * kl,
        "completions/mean_length": float(mask_CT.sum(1).float().mean()),
        "completions/clipped_ratio": 1 - int(r.finished_C[r.own_C].sum()) / len(mask_CT),
        "frac_reward_zero_std": 1 - float(varied_groups(r.rewards_C, r.group_C).double().mean()),
    }
    for name, part_C in r.score_parts.items():
        if (judged_C := r.own_C & ~part_C.isnan()).any():
            metrics[f"rewards/{name}/mean"] = float(part_C[judged_C].mean())
    if r.logps_CT is not r.sampler_logps_CT:
        metrics["policy/mismatch_kl"] = float(mismatch_kl(logps_CT, r.sampler_logps_CT[r.own_C], mask_CT))
    return metrics
