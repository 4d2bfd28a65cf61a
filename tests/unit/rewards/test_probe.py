"""The linear probe: the optimum of a convex problem, found."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from accord.models.heads import ScalarHead
from accord.rewards.probe import fit_probe, fit_ridge, start_head

GENERATOR = torch.Generator().manual_seed(0)
HIDDEN_CD = torch.randn(60, 5, dtype=torch.float64, generator=GENERATOR) * torch.tensor(
    [1.0, 5.0, 0.1, 2.0, 1.0]
)
TRUE_D = torch.tensor([1.0, -0.4, 6.0, 0.0, 0.5], dtype=torch.float64)
A_P = torch.randint(60, (4000,), generator=GENERATOR)
B_P = torch.randint(60, (4000,), generator=GENERATOR)
P_P = torch.sigmoid((HIDDEN_CD[A_P] - HIDDEN_CD[B_P]) @ TRUE_D)
ONES_P = torch.ones(4000)


def test_the_population_optimum_is_the_true_reward() -> None:
    found = fit_probe(HIDDEN_CD, A_P, B_P, P_P, ONES_P, penalty=1e-9)
    torch.testing.assert_close(found.double(), TRUE_D, rtol=1e-3, atol=1e-3)


def test_the_gradient_is_zero_at_the_ridge_optimum() -> None:
    penalty = 0.05
    scale_D = HIDDEN_CD.std(0)
    found = fit_probe(HIDDEN_CD, A_P, B_P, P_P, ONES_P, penalty=penalty).double() * scale_D
    found.requires_grad_()
    margin_P = (HIDDEN_CD[A_P] - HIDDEN_CD[B_P]) / scale_D @ found
    loss = (
        P_P * softplus(-margin_P) + (1 - P_P) * softplus(margin_P)
    ).mean() + penalty * found.square().sum()
    (gradient,) = torch.autograd.grad(loss, found)
    assert float(gradient.abs().max()) < 1e-5


def test_a_weight_of_two_is_the_row_twice() -> None:
    twice = fit_probe(HIDDEN_CD, A_P[:50], B_P[:50], P_P[:50], 1.0 + (torch.arange(50) < 10), penalty=0.1)
    rows = torch.cat([torch.arange(50), torch.arange(10)])
    repeated = fit_probe(HIDDEN_CD, A_P[rows], B_P[rows], P_P[rows], torch.ones(60), penalty=0.1)
    torch.testing.assert_close(twice, repeated, rtol=1e-4, atol=1e-5)


def test_ridge_regression_solves_its_normal_equations() -> None:
    rating_N, weight_N = HIDDEN_CD @ TRUE_D + 7.0, torch.arange(60).double() % 3
    found = fit_ridge(HIDDEN_CD, rating_N, weight_N, penalty=1e-12)
    torch.testing.assert_close(found, TRUE_D, rtol=1e-6, atol=1e-6)
    noisy_N, scale_D = rating_N + torch.sin(torch.arange(60.0)), HIDDEN_CD.std(0, correction=0)
    w = (fit_ridge(HIDDEN_CD, noisy_N, weight_N, penalty=0.3) * scale_D).requires_grad_()
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def loss() -> torch.Tensor:
        error_N = HIDDEN_CD / scale_D @ w + bias - noisy_N
        return (weight_N * error_N.square()).sum() / weight_N.sum() + 0.3 * w.square().sum()

    with torch.no_grad():  # the bias is not penalised
        bias.copy_((weight_N * (noisy_N - HIDDEN_CD / scale_D @ w)).sum() / weight_N.sum())
    assert max(float(g.abs().max()) for g in torch.autograd.grad(loss(), (w, bias))) < 1e-9


def test_the_head_starts_there_with_mean_zero() -> None:
    head = ScalarHead(5)
    start_head(head, TRUE_D.float(), HIDDEN_CD.float())
    scores_C = head(HIDDEN_CD.float())
    assert abs(float(scores_C.detach().mean())) < 1e-5
    torch.testing.assert_close(head.weight.detach(), TRUE_D.float())
