"""What all methods share that learn from pairs of answers without sampling: the pairs, and their metrics.

P pairs. Log-probabilities are natural and summed over an answer's tokens, its end of turn among them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from accord.errors import ConfigError
from accord.objectives.terms import same_shape
from accord.records import Terms


@dataclass(frozen=True)
class PairLogps:
    """P pairs as the policy and its reference see them; every tensor has shape (P,).

    Methods without a reference leave `ref_chosen_P` and `ref_rejected_P` unread. Raises ValueError when
    shapes differ.
    """

    chosen_P: Tensor
    rejected_P: Tensor
    ref_chosen_P: Tensor
    ref_rejected_P: Tensor
    chosen_tokens_P: Tensor  # lengths, for the methods that divide by them
    rejected_tokens_P: Tensor
    weight_P: Tensor | None = None  # 1 unless given
    margin_P: Tensor | None = None  # how much better the chosen answer is, in units of reward; 0 unless given

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        same_shape(**{name: tensor for name, tensor in given.items() if tensor is not None})

    @property
    def log_ratios(self) -> tuple[Tensor, Tensor]:
        """log π(y|x) / π_ref(y|x) of the chosen and of the rejected answers."""
        return self.chosen_P - self.ref_chosen_P, self.rejected_P - self.ref_rejected_P

    @property
    def mean_logps(self) -> tuple[Tensor, Tensor]:
        """log π(y|x) per token, of the chosen and of the rejected answers."""
        return self.chosen_P / self.chosen_tokens_P, self.rejected_P / self.rejected_tokens_P


def smoothed_nll(difference_P: Tensor, label_smoothing: float) -> Tensor:
    """-(1 - ε) log σ(d) - ε log σ(-d): the likelihood of labels of which a share ε is wrong, (P,).

    Its minimum is at d = logit(1 - ε), infinite for ε = 0. Raises ConfigError when ε is outside [0, ½).
    """
    check_smoothing(label_smoothing)
    right_P, wrong_P = logsigmoid(difference_P), logsigmoid(-difference_P)
    return -(1 - label_smoothing) * right_P - label_smoothing * wrong_P


def check_smoothing(label_smoothing: float) -> None:
    """Raises ConfigError unless 0 <= ε < ½: at ½ labels say nothing, above it they lie (Mitchell 2023)."""
    if not 0 <= label_smoothing < 0.5:
        raise ConfigError(f"label_smoothing must be at least 0 and below 0.5, not {label_smoothing}")


def check_positive(**settings: float) -> None:
    """Raises ConfigError that names the first of the settings (a β, τ or γ, without unit) not above 0."""
    for name, value in settings.items():
        if not value > 0:
            raise ConfigError(f"{name} must be positive, not {value}")


def pair_terms(
    pairs: PairLogps, loss_P: Tensor, chosen_rewards_P: Tensor, rejected_rewards_P: Tensor
) -> Terms:
    """Weighted sum of the pairs' losses. Divide by the sum of weights (by P without them).

    Metrics, weighted like the loss, in TRL's names: `rewards/chosen` and `rewards/rejected` (the method's
    implicit rewards), `rewards/margins` their difference, `rewards/accuracies` the share of pairs with a
    positive one (equal rewards count as half right), `logps/chosen` and `logps/rejected` (sums over an
    answer), and `loss/preference_avg`, which leaves out whatever is added to the loss later.
    """
    weight_P = torch.ones_like(loss_P) if pairs.weight_P is None else pairs.weight_P
    same_shape(loss_P=loss_P, weight_P=weight_P)
    loss = (weight_P * loss_P).sum()
    with torch.no_grad():
        margin_P = chosen_rewards_P - rejected_rewards_P
        means = {
            "loss/preference_avg": loss_P,
            "rewards/chosen": chosen_rewards_P,
            "rewards/rejected": rejected_rewards_P,
            "rewards/margins": margin_P,
            "rewards/accuracies": (1 + torch.sign(margin_P)) / 2,
            "logps/chosen": pairs.chosen_P,
            "logps/rejected": pairs.rejected_P,
        }
        count = weight_P.sum()
        return Terms(loss, {name: ((weight_P * value_P).sum(), count) for name, value_P in means.items()})


def chosen_nll(pairs: PairLogps) -> Terms:
    """Σ_p -w log π(y_w|x) / |y_w|: supervised fine-tuning on the chosen answers, to `terms.add` to a loss.

    A mean over each answer's tokens, so a long answer counts no more than a short one. It keeps the chosen
    answer's own log-probability from falling, which a difference alone does not (Pang et al. 2024,
    2404.19733). Metric: `loss/sft_avg`.
    """
    mean_P, _ = pairs.mean_logps
    weight_P = torch.ones_like(mean_P) if pairs.weight_P is None else pairs.weight_P
    loss = -(weight_P * mean_P).sum()
    return Terms(loss, {"loss/sft_avg": (loss.detach(), weight_P.sum())})
