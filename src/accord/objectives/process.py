"""Rewards for the steps of a solution, not for its end alone.

Uesato et al. 2022 (arXiv 2211.14275) and Lightman et al. 2023, "Let's Verify Step by Step" (2305.20050), for
the model; Wang et al. 2024, Math-Shepherd (2312.08935), for soft labels and the minimum as the score.

C solutions, T tokens of the longest; `step_CT` (boolean) marks the last token of each step, where the model
says with a logit whether everything up to here is right. What stands elsewhere is never read.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from accord.errors import ConfigError
from accord.objectives.terms import same_shape
from accord.records import Terms


def process_loss(
    logits_CT: Tensor, *, label_CT: Tensor, step_CT: Tensor, weight_C: Tensor | None = None
) -> Terms:
    """Σ over steps of w [-y log σ(z) - (1 - y) log σ(-z)].

    y is `label_CT`, the probability that the step is right: 1, 0, or the share of continuations that ended
    well (Math-Shepherd). Divide by the number of steps (by their weights, if any): a solution with more
    steps counts more; hand in weights 1 / steps to count each solution once.

    Metrics per step: `loss/reward_avg`, `rewards/accuracies` (over steps whose label is not ½; a logit of
    0 is half right). Raises ValueError for a label outside [0, 1].
    """
    same_shape(logits_CT=logits_CT, label_CT=label_CT, step_CT=step_CT)
    weight_C = torch.ones_like(logits_CT[:, 0]) if weight_C is None else weight_C
    same_shape(weight_C=weight_C, solutions=logits_CT[:, 0])
    logits_N, label_N = logits_CT.masked_select(step_CT), label_CT.masked_select(step_CT).to(logits_CT)
    weight_N = weight_C[:, None].expand_as(step_CT).masked_select(step_CT)
    bad_N = ~((label_N >= 0) & (label_N <= 1))
    if bool(bad_N.any()):
        raise ValueError(f"labels of steps lie between 0 and 1; got {label_N[bad_N][0].item():g}")
    nll_N = -label_N * logsigmoid(logits_N) - (1 - label_N) * logsigmoid(-logits_N)
    loss = (weight_N * nll_N).sum()

    with torch.no_grad():
        side_N = torch.sign(label_N - 0.5)
        decided_N = weight_N * side_N.abs()
        right_N = (1 + side_N * torch.sign(logits_N)) / 2
        metrics = {
            "loss/reward_avg": (loss.detach(), weight_N.sum()),
            "rewards/accuracies": ((decided_N * right_N).sum(), decided_N.sum()),
        }
    return Terms(loss, metrics)


def until_first_error(label_CT: Tensor, step_CT: Tensor) -> Tensor:
    """The steps up to and with the first wrong one (label below ½); boolean (C, T).

    What follows a mistake is neither right nor wrong, so PRM800K ends there (Lightman 2023, section 2.4);
    pass the result as `step_CT` to train on labels that go on.
    """
    same_shape(label_CT=label_CT, step_CT=step_CT)
    wrong_CT = step_CT & (label_CT < 0.5)
    return step_CT & (wrong_CT.cumsum(dim=1) - wrong_CT.long() == 0)


def solution_scores(
    logits_CT: Tensor, step_CT: Tensor, how: Literal["product", "min", "last"] = "product"
) -> Tensor:
    """One score per solution, the log of: the product of its steps' probabilities to be right (Lightman
    2023, the default), the smallest of them (Math-Shepherd), or the last.

    Logs rank the solutions alike and do not underflow. Raises ValueError for a solution without a step,
    ConfigError for another `how`.
    """
    same_shape(logits_CT=logits_CT, step_CT=step_CT)
    without = (~step_CT.any(dim=1)).nonzero().flatten().tolist()
    if without:
        raise ValueError(f"solutions {without} have no step, so nothing says how good they are")
    certain_CT = torch.where(step_CT, logits_CT, torch.inf)  # what is no step has log-probability 0
    if how == "product":
        return logsigmoid(certain_CT).sum(dim=1)
    if how == "min":
        return logsigmoid(certain_CT.amin(dim=1))
    if how == "last":
        last_C = step_CT.shape[1] - 1 - step_CT.flip(1).int().argmax(dim=1)  # argmax finds the first True
        return logsigmoid(logits_CT.gather(1, last_C[:, None]).squeeze(1))
    raise ConfigError(f"unknown way {how!r} to score a solution by its steps: use product, min or last")
