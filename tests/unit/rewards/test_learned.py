"""A reward model on the trunk comes back from its folder as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from accord.config import Lora
from accord.data.batches import collate
from accord.data.render import Encoded
from accord.models.adapters import Trunk
from accord.models.heads import ScalarHead
from accord.rewards.learned import ADAPTER, TrunkReward, load_trunk_reward
from tiny import tiny_llama

BATCH = collate([Encoded((1, 2, 3), ((4, 5, 6, 7), (8, 9)))])


@pytest.mark.parametrize("layers", [None, 2])
def test_a_saved_reward_model_scores_the_same(tmp_path: Path, layers: int | None) -> None:
    trunk = Trunk(tiny_llama(layers=3))
    trunk.add(ADAPTER, Lora(r=2), seed=0, depth=layers)
    with torch.no_grad():
        for parameter in trunk.parameters(ADAPTER).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    reward = TrunkReward(trunk, ScalarHead(32, seed=2), layers)
    reward.save(tmp_path)
    loaded = load_trunk_reward(tmp_path, Trunk(tiny_llama(layers=3)), 32)
    assert loaded.layers == layers
    with torch.no_grad():
        assert torch.equal(loaded.forward(BATCH).scores_C, reward.forward(BATCH).scores_C)
        other = TrunkReward(loaded.trunk, loaded.head, 1 if layers else 2)
        assert not torch.allclose(other.forward(BATCH).scores_C, reward.forward(BATCH).scores_C)
