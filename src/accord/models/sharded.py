"""A frozen trunk of which each process keeps a part of every layer (FSDP2, Zhao et al. 2023).

A layer's weights are gathered when it runs, forwards and again backwards, and let go behind it. Adapters,
heads and what is outside the layers (embeddings, the last norm, the output layer) are whole in every process,
so that nothing changes for whoever trains them. All processes must run the same layers, equally often.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from accord.models.forward import layers_of


def shard(model: PreTrainedModel, device: torch.device) -> None:
    """Split the layers of `model`, which is on the CPU, over all processes, and put all of it on `device`.

    Raises ModelError for a model whose layers are not in one list.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    model.requires_grad_(False)
    for layer in layers_of(model):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    nn.Module.to(model, device)


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(module, FSDPModule) for module in model.modules())


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself; where it is split, all of it on the CPU, for which all processes must ask."""
    full: Any = tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor
    return full
