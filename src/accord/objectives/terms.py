"""Arithmetic that every objective shares: shape checks and adding up `Terms`."""

from __future__ import annotations

from torch import Tensor

from accord.records import Terms


def add(first: Terms, second: Terms, weight: float = 1.0) -> Terms:
    """`first.loss + weight * second.loss`, with the metrics of both, unweighted.

    Raises ValueError when both carry a metric of the same name: one would silently hide the other.
    """
    shared = first.metrics.keys() & second.metrics.keys()
    if shared:
        raise ValueError(f"both terms carry the metrics {sorted(shared)}; rename one of them before adding")
    return Terms(first.loss + weight * second.loss, {**first.metrics, **second.metrics})


def same_shape(**tensors: Tensor) -> None:
    """Raise ValueError unless all have one shape: broadcasting (C, 1) over (C, T) is silently wrong."""
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"tensors that belong together differ in shape: {shapes}")
