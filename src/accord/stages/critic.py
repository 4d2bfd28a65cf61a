"""PPO's critic: a value head on hidden states, of a frozen model or of the policy itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from accord.config import PpoConfig
from accord.models.heads import ValueHead
from accord.objectives.ppo import value_loss
from accord.records import Terms
from accord.training.engine import Engine
from accord.training.run import Metrics


@dataclass(frozen=True)
class Critic:
    """`engine` is None where the critic reads the policy's own trunk and is trained together with it."""

    config: PpoConfig
    head: ValueHead
    engine: Engine | None

    def features(self, ref_hidden_FD: Tensor, reward_hidden_FD: Tensor | None) -> Tensor:
        """The frozen hidden states that it reads: the reward model's if it has any, else the reference's."""
        if self.config.critic == "reward" and reward_hidden_FD is not None:
            return reward_hidden_FD
        return ref_hidden_FD

    def fit(
        self, features_CTD: Tensor, values_CT: Tensor, returns_CT: Tensor, mask_CT: Tensor, progress: float
    ) -> Metrics:
        """Passes of the head over frozen features: no model pass, so they cost next to nothing.

        The metrics are those before its first step, on answers that it has not seen.
        """
        assert self.engine is not None

        def loss(_: None) -> Terms:
            return value_loss(
                self.head(features_CTD),
                values_CT,
                returns_CT,
                mask_CT,
                clip_range=self.config.value_clip_range,
            )

        count = int(mask_CT.sum())
        rows = [
            self.engine.step([None], loss, count=count, progress=progress)
            for _ in range(self.config.critic_epochs)
        ]
        return {k: v for k, v in rows[0].items() if k not in ("loss", "lr", "grad_norm")}
