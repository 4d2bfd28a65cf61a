"""A reward model on the trunk comes back from its folder as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from accord.config import Lora
from accord.data.batches import collate
from accord.data.render import Encoded
from accord.models.adapters import Trunk
from accord.models.heads import ScalarHead, head_dtype, pooled_size
from accord.rewards.learned import ADAPTER, TrunkReward, load_trunk_reward
from accord.rewards.probe import start_head
from tiny import tiny_llama

BATCH = collate([Encoded((1, 2, 3), ((4, 5, 6, 7), (8, 9)))])


@pytest.mark.parametrize(("layers", "pooling"), [(None, "last"), (2, "last"), (2, "last+mean")])
def test_a_saved_reward_model_scores_the_same(tmp_path: Path, layers: int | None, pooling: str) -> None:
    trunk = Trunk(tiny_llama(layers=3))
    trunk.add(ADAPTER, Lora(r=2), seed=0, depth=layers)
    with torch.no_grad():
        for parameter in trunk.parameters(ADAPTER).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    reward = TrunkReward(trunk, ScalarHead(pooled_size(pooling, 32), seed=2), pooling, layers)
    reward.save(tmp_path)
    loaded = load_trunk_reward(tmp_path, Trunk(tiny_llama(layers=3)), 32)
    assert (loaded.layers, loaded.pooling) == (layers, pooling)
    with torch.no_grad():
        assert torch.equal(loaded.forward(BATCH).scores_C, reward.forward(BATCH).scores_C)
        other = TrunkReward(loaded.trunk, loaded.head, pooling, 1 if layers else 2)
        assert not torch.allclose(other.forward(BATCH).scores_C, reward.forward(BATCH).scores_C)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_head_computes_in_float32_or_wider(tmp_path: Path, dtype: torch.dtype) -> None:
    wide = torch.promote_types(dtype, torch.float32)
    trunk = Trunk(tiny_llama().to(dtype))
    trunk.add(ADAPTER, Lora(r=2), seed=0)
    reward = TrunkReward(trunk, ScalarHead(32, seed=2, dtype=head_dtype(dtype)))
    hidden_CD = torch.randn(5, 32, generator=torch.Generator().manual_seed(3)).to(dtype)
    start_head(reward.head, torch.ones(32, dtype=torch.float64), hidden_CD)
    assert reward.head(hidden_CD).dtype == reward.head.weight.dtype == wide
    expected_C = hidden_CD.double().sum(1) - hidden_CD.double().sum(1).mean()
    torch.testing.assert_close(reward.head(hidden_CD).double(), expected_C, rtol=0, atol=1e-5)
    reward.save(tmp_path)
    for other in (torch.float32, dtype):
        loaded = load_trunk_reward(tmp_path, Trunk(tiny_llama().to(other)), 32)
        assert torch.equal(loaded.head.weight, reward.head.weight)
        assert loaded.forward(BATCH).scores_C.dtype == wide
    with torch.no_grad():
        assert torch.equal(loaded.forward(BATCH).scores_C, reward.forward(BATCH).scores_C)


def test_what_the_head_reads_is_the_answers_own_states() -> None:
    """Shared row: prompt at 0 to 2, the first answer at 3 to 6, the second at 7 and 8."""
    hidden_FD = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    reward = TrunkReward(Trunk(tiny_llama()), ScalarHead(8), "last+mean")
    expected_CD = torch.stack(
        [torch.cat([hidden_FD[6], hidden_FD[3:7].mean(0)]), torch.cat([hidden_FD[8], hidden_FD[7:9].mean(0)])]
    )
    assert BATCH.stands_CT.tolist() == [[3, 4, 5, 6], [7, 8, 0, 0]]
    torch.testing.assert_close(reward.pooled(hidden_FD, BATCH), expected_CD)
