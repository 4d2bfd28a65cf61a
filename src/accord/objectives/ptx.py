"""The pre-training mix: keep a policy that is optimised for a reward likely to say what people wrote.

Ouyang et al. 2022 (InstructGPT, 2203.02155), eq. 2: E[r - β log π/π_ref] + γ E_data[log π(x)].
"""

from __future__ import annotations

from torch import Tensor

from accord.objectives.sft import nll
from accord.records import Terms


def ptx_loss(logps_CT: Tensor, mask_CT: Tensor, *, coef: float, count: float, tokens: int) -> Terms:
    """γ times the mean -log π of the data's tokens, scaled to survive the step's division by `count`.

    `count` is what the engine divides the step's loss by, `tokens` the number of the data's tokens in the
    whole step. InstructGPT has γ = 27.8, beside a loss that is a mean over tokens as well. Metric:
    `loss/ptx_avg`, in nats per token.
    """
    terms = nll(logps_CT, mask_CT)
    return Terms(terms.loss * (coef * count / tokens), {"loss/ptx_avg": terms.metrics["loss/nll_avg"]})
