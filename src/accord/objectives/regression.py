"""Scores learned from ratings, one or several attributes at once.

HelpSteer2 (Wang et al. 2024, arXiv 2406.08673) fits one output per rated attribute by squared error; a scalar
reward is then a weighted sum of them (section 3.2). Ratings on a short scale of stars lose nothing by the
ordinal model instead (`ordinal_rating_loss`), which need not believe that all steps are equally long.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from accord.objectives.terms import same_shape
from accord.records import Terms


def regression_loss(
    scores_CA: Tensor,
    *,
    rating_CA: Tensor,
    weight_C: Tensor | None = None,
    attributes: Sequence[str] = (),
) -> Terms:
    """Σ w (score - rating)² over answers and attributes; an attribute that nobody rated is NaN and left out.

    C answers, A attributes; (C,) does for one. Divide by `observed(rating_CA, weight_C)`. A column with few
    ratings counts as often as it was rated.

    Metrics, weighted like the loss: `loss/reward_avg`, `rewards/mean`, and for each of `attributes`
    `rewards/error/NAME`, its own squared error. Raises ValueError when these are not A names.
    """
    same_shape(scores_CA=scores_CA, rating_CA=rating_CA)
    scores_CA, rating_CA = (x[:, None] if x.dim() == 1 else x for x in (scores_CA, rating_CA))
    if attributes and len(attributes) != scores_CA.shape[1]:
        raise ValueError(f"{scores_CA.shape[1]} attributes are scored, but {len(attributes)} are named")
    weight_CA = _weights(rating_CA, weight_C).to(scores_CA)
    # The rating is replaced before the square: 0 · NaN would be NaN in the gradient.
    error_CA = (scores_CA - torch.where(weight_CA > 0, rating_CA, 0.0)).square()
    loss = (weight_CA * error_CA).sum()

    with torch.no_grad():
        metrics = {
            "loss/reward_avg": (loss.detach(), weight_CA.sum()),
            "rewards/mean": ((weight_CA * scores_CA).sum(), weight_CA.sum()),
        }
        for a, name in enumerate(attributes):
            error = (weight_CA * error_CA)[:, a].sum()
            metrics[f"rewards/error/{name}"] = (error, weight_CA[:, a].sum())
    return Terms(loss, metrics)


def observed(rating_CA: Tensor, weight_C: Tensor | None = None) -> Tensor:
    """The sum of weights of all ratings that are there: what `regression_loss` is divided by."""
    return _weights(rating_CA[:, None] if rating_CA.dim() == 1 else rating_CA, weight_C).sum()


def _weights(rating_CA: Tensor, weight_C: Tensor | None) -> Tensor:
    weight_C = torch.ones_like(rating_CA[:, 0]) if weight_C is None else weight_C
    same_shape(weight_C=weight_C, answers=rating_CA[:, 0])
    return torch.where(rating_CA.isnan(), 0.0, weight_C[:, None].to(rating_CA))
