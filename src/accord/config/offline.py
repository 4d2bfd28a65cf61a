"""Settings of the methods that learn from preferences without sampling: first what all of them share."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from accord.config.base import MODEL, SAVE, STRICT, Lora, Method, Optim

MARGIN_COEF: float = Field(0.0, ge=0, description="times the row's margin, inside the sigmoid (ODPO)")
WRONG_LABELS: float = Field(0.1, ge=0, lt=0.5, description="share of labels taken to be wrong")
SMOOTHING: float = Field(0.0, ge=0, lt=0.5, description="share of labels taken to be wrong")


class OfflineConfig(Method):
    """What every offline method has."""

    leashed: ClassVar[bool] = True  # whether there is a reference

    model: str = MODEL
    data: str = Field(description="preferences: a file, a folder, a hub name, or LEDGER#RELEASE")
    epochs: float = Field(1.0, gt=0, description="passes over the data")
    batch_size: int = Field(
        8, gt=0, description="prompts per step, each with all that was said of its answers"
    )
    max_length: int = Field(1024, gt=0, description="tokens; longer rows are left out and counted")
    held_out: float = Field(0.1, ge=0, lt=1, description="share of the prompts kept to measure accuracy")
    lora: Lora | None = Field(default_factory=Lora, description="null for full fine-tuning")
    optim: Optim = Optim(learning_rate=5e-5, warmup_share=0.1, schedule="linear")
    save: Literal["merged", "adapter"] = SAVE
    strict: bool = STRICT

    def own(self) -> dict[str, Any]:
        """The settings that the method's loss takes by keyword."""
        shared = OfflineConfig.model_fields.keys() | PairConfig.model_fields.keys()
        return {name: getattr(self, name) for name in type(self).model_fields if name not in shared}


class PairConfig(OfflineConfig):
    """What the methods have that learn from pairs."""

    sft_coef: float = Field(
        0.0,
        ge=0,
        description="weight of the chosen answers' mean log-likelihood per token, added to the loss",
    )


class DpoConfig(PairConfig):
    """Direct preference optimisation (Rafailov 2023)."""

    method = "dpo"
    beta: float = Field(0.1, gt=0, description="the leash: higher keeps the policy nearer to its start")
    margin_coef: float = MARGIN_COEF


class CdpoConfig(DpoConfig):
    """Conservative DPO: some labels are wrong, so no pair is ever quite sure (Mitchell 2023)."""

    method = "cdpo"
    label_smoothing: float = WRONG_LABELS


class RobustDpoConfig(DpoConfig):
    """Robust DPO: DPO's loss on the true labels, estimated from flipped ones (Chowdhury 2024)."""

    method = "robust-dpo"
    label_smoothing: float = WRONG_LABELS


class IpoConfig(PairConfig):
    """Identity preference optimisation: a finite gap, 1/(2 beta), between chosen and rejected (Azar 2024)."""

    method = "ipo"
    beta: float = Field(0.1, gt=0, description="τ of the paper: log-ratios come to differ by 1/(2 beta)")
    form: Literal["sum", "mean"] = Field(
        "sum", description="log-ratios of whole answers (the paper) or per token (TRL's)"
    )


class KtoConfig(OfflineConfig):
    """Kahneman-Tversky optimisation: answers found good or bad, one by one (Ethayarajh 2024)."""

    method = "kto"
    beta: float = Field(0.1, gt=0, description="the leash: higher keeps the policy nearer to its start")
    desirable_weight: float = Field(1.0, gt=0, description="weight of good answers")
    undesirable_weight: float = Field(1.0, gt=0, description="weight of bad answers")


class OrpoConfig(PairConfig):
    """Odds ratio preference optimisation: fine-tuning and preferences at once, no reference (Hong 2024)."""

    method, leashed = "orpo", False
    beta: float = Field(0.1, gt=0, description="λ of the paper: weight of the odds ratio beside fine-tuning")
    sft_coef: float = Field(1.0, ge=0, description="weight of fine-tuning on the chosen answers")


class SimpoConfig(PairConfig):
    """Simple preference optimisation: rewards are likelihoods per token, no reference (Meng 2024)."""

    method, leashed = "simpo", False
    beta: float = Field(2.0, gt=0, description="scale of the reward, per token")
    gamma: float = Field(1.0, ge=0, description="reward by which the chosen answer must win")
    label_smoothing: float = SMOOTHING


class CpoConfig(PairConfig):
    """Contrastive preference optimisation: DPO without a reference, plus fine-tuning (Xu 2024)."""

    method, leashed = "cpo", False
    beta: float = Field(0.1, gt=0, description="scale of the reward")
    label_smoothing: float = SMOOTHING
    sft_coef: float = Field(1.0, ge=0, description="weight of fine-tuning on the chosen answers")
