"""Every setting of every stage: one pydantic model per stage, read from YAML and `--dotted.flags`.

An unknown key is an error that names the file, the line and the nearest known key. Flags override the
file. Names are TRL's where TRL has the setting.
"""

from accord.config.base import Device, Dtype, Lora, Optim, Settings, Stage
from accord.config.offline import (
    CdpoConfig,
    CpoConfig,
    DpoConfig,
    IpoConfig,
    KtoConfig,
    OfflineConfig,
    OrpoConfig,
    PairConfig,
    RobustDpoConfig,
    SimpoConfig,
)
from accord.config.online import (
    BestOfNConfig,
    GrpoConfig,
    KlControl,
    OnlineConfig,
    OnlineDpoConfig,
    PpoConfig,
    PpoLagrangianConfig,
    ReinforcePlusPlusConfig,
    RlooConfig,
    XpoConfig,
)
from accord.config.pretrain import FromScratch, PretrainConfig
from accord.config.reading import describe, read_config, with_overrides
from accord.config.stages import AskConfig, EvalConfig, RewardConfig, RunConfig, SampleConfig, SftConfig

__all__ = [
    "AskConfig",
    "BestOfNConfig",
    "CdpoConfig",
    "CpoConfig",
    "Device",
    "DpoConfig",
    "Dtype",
    "EvalConfig",
    "FromScratch",
    "GrpoConfig",
    "IpoConfig",
    "KlControl",
    "KtoConfig",
    "Lora",
    "OfflineConfig",
    "OnlineConfig",
    "OnlineDpoConfig",
    "Optim",
    "OrpoConfig",
    "PairConfig",
    "PpoConfig",
    "PpoLagrangianConfig",
    "PretrainConfig",
    "ReinforcePlusPlusConfig",
    "RewardConfig",
    "RlooConfig",
    "RobustDpoConfig",
    "RunConfig",
    "SampleConfig",
    "Settings",
    "SftConfig",
    "SimpoConfig",
    "Stage",
    "XpoConfig",
    "describe",
    "read_config",
    "with_overrides",
]
