"""Log-probabilities and entropies from logits that are never kept.

A token's log-probability depends on one hidden state alone. So where the head is frozen, its gradient with
respect to that state is known as soon as the logits are: it is computed in the forward pass, and the backward
pass only scales it, by one number a token. Logits are made once, not kept, and not made again.

Shape letters: n tokens of a chunk, D hidden size, V vocabulary, O outputs (log-probability; entropy).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

Logits = Callable[[Tensor], Tensor]  # (n, D) -> (n, V), at the temperature, float32 or wider


def read_off(logits: Logits, hidden_nD: Tensor, targets_n: Tensor, *, frozen: bool, entropy: bool) -> Tensor:
    """(O, n): log-probabilities of the targets and, with `entropy`, the entropy, in nats.

    `frozen` says that nothing inside `logits` learns; otherwise they are made again in the backward pass.
    """
    if not torch.is_grad_enabled():
        return _outputs(logits(hidden_nD), targets_n, entropy)
    if not frozen:
        again = lambda hidden, targets: _outputs(logits(hidden), targets, entropy)  # noqa: E731
        return checkpoint(again, hidden_nD, targets_n, use_reentrant=False)
    found: Tensor = _ReadOff.apply(hidden_nD, targets_n, logits, entropy)
    return found


def _outputs(logits_nV: Tensor, targets_n: Tensor, entropy: bool) -> Tensor:
    logps_nV = logits_nV.log_softmax(-1)
    picked_n = logps_nV.gather(-1, targets_n[:, None])[:, 0]
    if not entropy:
        return picked_n[None]
    return torch.stack([picked_n, -(logps_nV.exp() * logps_nV).sum(-1)])


class _ReadOff(torch.autograd.Function):
    """The outputs and, for each, its gradient with respect to the hidden state (n, D)."""

    @staticmethod
    def forward(ctx: Any, hidden_nD: Tensor, targets_n: Tensor, logits: Logits, entropy: bool) -> Tensor:
        with torch.enable_grad():
            inner_nD = hidden_nD.detach().requires_grad_()
            logits_nV = logits(inner_nD)
        plain_nV = logits_nV.detach()
        # d log p(target) / d logits = [target] - p
        totals_n1 = plain_nV.logsumexp(-1, keepdim=True)
        picked_n = (plain_nV.gather(-1, targets_n[:, None]) - totals_n1)[:, 0]
        probs_nV = (plain_nV - totals_n1).exp_()
        outputs = [picked_n]
        if entropy:  # H = log Z - E[logit];  d H / d logits = -p (log p + H)
            mean_n1 = (probs_nV * plain_nV).sum(-1, keepdim=True)
            outputs.append((totals_n1 - mean_n1)[:, 0])
            slope_nV = (mean_n1 - plain_nV).mul_(probs_nV)
        pull_nV = probs_nV.neg_()
        pull_nV.scatter_add_(-1, targets_n[:, None], torch.ones_like(totals_n1))
        gradients = [torch.autograd.grad(logits_nV, inner_nD, pull_nV, retain_graph=entropy)[0]]
        if entropy:
            gradients.append(torch.autograd.grad(logits_nV, inner_nD, slope_nV)[0])
        ctx.save_for_backward(*gradients)
        return torch.stack(outputs)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_On: Tensor) -> tuple[Tensor | None, ...]:
        terms = [d_n[:, None].to(g.dtype) * g for d_n, g in zip(d_On, ctx.saved_tensors, strict=True)]
        return sum(terms[1:], start=terms[0]), None, None, None
