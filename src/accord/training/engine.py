"""The one training step. It never knows which algorithm it serves: it is handed a loss.

A loss returns sums (`records.Terms`). The engine adds up gradients over the step's micro-batches, divides
once by a count taken over the whole step, clips, and steps. Of several processes each is handed all of the
step's micro-batches, computes its share of them, and the sums are added up. So micro-batching, padding and
sharding cannot change the gradient.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from accord.config import Optim
from accord.errors import NumericsError
from accord.records import Terms
from accord.training.distributed import add_gradients, gather, share, spare
from accord.training.lanes import in_lanes

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class ParameterGroup:
    """Named parameters that share a peak learning rate."""

    parameters: Mapping[str, nn.Parameter]
    learning_rate: float


def learning_rate_share(schedule: str, progress: float, warmup_share: float) -> float:
    """The schedule as a share of the peak rate; `progress` in [0, 1] is how much of the run is behind us."""
    if progress < warmup_share:
        return progress / warmup_share
    after = (progress - warmup_share) / (1 - warmup_share)
    if schedule == "linear":
        return 1 - after
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * after))
    return 1.0


class Engine:
    """Parameters, their AdamW state and the schedule; `extra` is whatever else a stage must not lose."""

    def __init__(self, groups: Mapping[str, ParameterGroup], optim: Optim) -> None:
        self.groups = dict(groups)
        self.optim = optim
        self.extra: dict[str, Any] = {}
        self.average: dict[str, Tensor] = {}
        self.averaged = 0
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(g.parameters.values()), "lr": g.learning_rate, "peak": g.learning_rate}
                for g in self.groups.values()
            ],
            betas=(optim.adam_beta1, optim.adam_beta2),
            eps=optim.adam_epsilon,
            weight_decay=optim.weight_decay,
        )

    def step(
        self,
        batches: Sequence[Batch],
        loss: Callable[[Batch], Terms],
        *,
        count: float,
        progress: float,
    ) -> dict[str, float]:
        """One optimiser step over `batches`, the same list in every process.

        `count` is the number of units (tokens, pairs, sequences) in `batches` that the loss sums over;
        `progress` in [0, 1] places the step on the schedule. Returns the metrics' means over all batches.

        Raises NumericsError if the gradient is not finite; the parameters are then unchanged.
        """
        self.optimizer.zero_grad(set_to_none=True)
        parameters = [p for g in self.groups.values() for p in g.parameters.values()]
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for gradients, found in in_lanes(partial(_sums, loss, parameters), share(batches)):
            _accumulate(parameters, gradients)
            for name, pair in found.items():
                _add(sums[name], *pair)
        for batch in spare(batches):  # for the others' sake: they wait for this process's part of each layer
            _sums(loss, parameters, [batch])
        means = reduce_metrics(sums, loss_count=count)
        means["grad_norm"] = self._apply(max(count, 1e-12), progress)
        if progress > 1 - self.optim.average_share:
            self._add_to_average()
        means["lr"] = self.optimizer.param_groups[0]["lr"]
        return means

    def _apply(self, denominator: float, progress: float) -> float:
        parameters = [p for g in self.groups.values() for p in g.parameters.values()]
        add_gradients(parameters)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(denominator)
        norm = float(nn.utils.clip_grad_norm_(parameters, self.optim.max_grad_norm))
        if not math.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            raise NumericsError(
                f"the gradient's norm is {norm}; lower the learning rate, or look for a bad row"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate_share(
                self.optim.schedule, progress, self.optim.warmup_share
            )
        self.optimizer.step()
        return norm

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters, as GROUP/NAME."""
        for group_name, group in self.groups.items():
            for name, parameter in group.parameters.items():
                yield f"{group_name}/{name}", parameter

    @torch.no_grad()
    def _add_to_average(self) -> None:
        """Running mean of the last steps' parameters (Polyak and Juditsky 1992)."""
        self.averaged += 1
        for key, parameter in self.named_parameters():
            mean = self.average.setdefault(key, parameter.detach().clone())
            mean.lerp_(parameter, 1 / self.averaged)

    @torch.no_grad()
    def finish(self) -> None:
        """The run is over: the parameters become their average, where one was asked for."""
        for key, parameter in self.named_parameters():
            if key in self.average:
                parameter.copy_(self.average[key])

    # What a checkpoint holds. Values are JSON; tensors go to safetensors; nothing is pickled.

    def tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {"rng": torch.get_rng_state()}
        for key, parameter in self.named_parameters():
            found[f"parameter/{key}"] = parameter.detach()
            for slot, value in self.optimizer.state.get(parameter, {}).items():
                found[f"optimizer/{key}/{slot}"] = value
        if self.averaged:
            found["averaged"] = torch.tensor(self.averaged)
            found |= {f"average/{key}": mean for key, mean in self.average.items()}
        return found

    def restore(self, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
        torch.set_rng_state(tensors["rng"])
        for key, parameter in self.named_parameters():
            with torch.no_grad():
                parameter.copy_(tensors[f"parameter/{key}"])
            if state := _under(tensors, f"optimizer/{key}/"):
                self.optimizer.state[parameter] = {  # AdamW wants its count of steps on the CPU
                    slot: value if slot == "step" else value.to(parameter.device)
                    for slot, value in state.items()
                }
        here = {key: parameter.device for key, parameter in self.named_parameters()}
        self.average = {k: mean.to(here[k]) for k, mean in _under(tensors, "average/").items()}
        self.averaged = int(tensors["averaged"]) if self.average else 0
        self.extra = dict(extra)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value.clone() for key, value in tensors.items() if key.startswith(prefix)}


def _sums(
    loss: Callable[[Batch], Terms], parameters: Sequence[nn.Parameter], batches: Sequence[Batch]
) -> tuple[list[Tensor | None], dict[str, list[float]]]:
    """Gradients and metrics, added up over the batches of a lane."""
    total: list[Tensor | None] = [None] * len(parameters)
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for batch in batches:
        terms = loss(batch)
        found = torch.autograd.grad(terms.loss, parameters, allow_unused=True)
        for i, gradient in enumerate(_owned(parameters, found)):
            if gradient is not None:
                known = total[i]
                total[i] = gradient if known is None else known.add_(gradient)
        _add(sums["loss"], float(terms.loss.detach()), 0.0)
        for name, (value, number) in terms.metrics.items():
            _add(sums[name], float(value), float(number))
    return total, sums


def _owned(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> Iterator[Tensor | None]:
    """As `backward` leaves them: each laid out as its parameter, and no two in the same memory."""
    seen: set[int] = set()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            yield None
            continue
        if gradient.stride() != parameter.stride() or gradient.data_ptr() in seen:
            gradient = torch.empty_like(parameter).copy_(gradient)
        seen.add(gradient.data_ptr())
        yield gradient


def _accumulate(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _add(pair: list[float], value: float, number: float) -> None:
    pair[0] += value
    pair[1] += number


def reduce_metrics(sums: Mapping[str, Sequence[float]], *, loss_count: float) -> dict[str, float]:
    """(sum, count) pairs of all processes to means; a metric that nothing counted is left out.

    The loss is divided by the step's own count. A process without a batch has no metrics.
    """
    added: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for own in gather({name: tuple(pair) for name, pair in sums.items()}):
        for name, (value, number) in own.items():
            _add(added[name], value, number)
    added["loss"][1] = loss_count
    return {name: value / number for name, (value, number) in sorted(added.items()) if number}


def merge_means(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Plain average of several steps' metrics, key by key."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            found[name].append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}
