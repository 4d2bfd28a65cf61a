"""Who samples from the policy while it learns: the built-in sampler, or a vLLM (`sampler: vllm`)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Protocol

import torch

from accord.config import OnlineConfig
from accord.errors import ConfigError
from accord.models.adapters import Trunk
from accord.models.device import here
from accord.models.memory import give_back
from accord.models.quiet import quietly
from accord.models.sharded import is_sharded
from accord.records import Group, Prompt, Sampling
from accord.rollout.local import LocalSampler
from accord.rollout.sampler import Sampler
from accord.rollout.vllm import Colocated, Served, Server, VllmSampler, import_vllm
from accord.stages.common import Bench
from accord.training.distributed import leads, spread, wait, world


class PolicySampler(Sampler, Protocol):
    """A sampler that can be told the policy's new weights."""

    def refresh(self, trunk: Trunk, name: str, version: str) -> None: ...


def open_sampler(config: OnlineConfig, bench: Bench) -> PolicySampler:
    """The policy's sampler; call it before the trunk has adapters. Raises ConfigError and ModelError."""
    if is_sharded(bench.loaded.model):
        raise ConfigError(
            f"{config.method} samples from the policy while it learns, and a model that FSDP splits is not "
            "sampled from; start the processes with configs/processes.yaml, each with the whole model"
        )
    if config.sampler == "local":
        dtype = None if config.sampler_precision == "exact" else torch.bfloat16
        model, rows = bench.loaded.model, config.rows
        return LocalSampler(model, bench.renderer, policy_version="", rows=rows, dtype=dtype)
    served: Served
    if config.vllm_server is not None:
        at_once = -(-config.rows // config.k)
        served = Server(config.vllm_server, adapter=config.lora is not None, at_once=at_once)
    else:
        served = _colocated(config, bench)
    return VllmSampler(served, bench.loaded.model, bench.renderer, policy_version="", folder=config.out)


def _colocated(config: OnlineConfig, bench: Bench) -> Served:
    import_vllm()  # says what to install before anything is written
    if world()[1] > 1:
        raise ConfigError(
            "sampler: vllm inside the training process works with one process; start a vLLM server and give "
            "its address with --vllm_server"
        )
    config.out.mkdir(parents=True, exist_ok=True)
    base = tempfile.TemporaryDirectory(prefix=".vllm-base-", dir=config.out)
    with quietly():
        bench.loaded.model.save_pretrained(base.name)
        bench.loaded.tokenizer.save_pretrained(base.name)
    return Colocated(
        base,
        dtype=str(bench.loaded.model.dtype).removeprefix("torch."),
        memory=config.vllm_memory,
        rows=config.rows,
        rank=None if config.lora is None else config.lora.r,
        raw=config.top_p < 1,
        sleep=here().type == "cuda",
    )


def refresh(sampler: PolicySampler, trunk: Trunk, name: str, version: str) -> None:
    """Tell the sampler the policy's weights; of several processes with one server, the first tells it."""
    if isinstance(sampler, VllmSampler) and not leads():
        sampler.policy_version = version
    else:
        sampler.refresh(trunk, name, version)
    if isinstance(sampler, VllmSampler):
        wait()


def sample_shared(sampler: Sampler, prompts: Sequence[Prompt], k: int, sampling: Sampling) -> list[Group]:
    """One group per prompt; each of several processes samples its share, and all get all groups."""
    give_back()  # what training left behind
    groups = spread(prompts, lambda own: sampler.sample(own, k, sampling))
    give_back()  # and what sampling did
    return groups
