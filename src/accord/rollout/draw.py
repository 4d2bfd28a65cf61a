"""Drawing tokens: one stream of uniforms per completion, and the inverse of the cumulative distribution.

A draw depends on its own logits and its own uniform only, never on the other rows of the batch. That is
what makes a completion a function of (model, prompt, sampling, sample index).

R rows, V vocabulary, B blocks of the vocabulary.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 256  # tokens per block of the two-level search
CHUNK = 2**19  # logits worked on at a time by a CPU, small enough to stay in its cache


def uniforms(seed: int, prompt_id: str, index: int, count: int) -> np.ndarray:
    """The first `count` numbers in [0, 1) of the stream that belongs to this completion (float64).

    Streams are counter-based (Philox, Salmon et al. 2011) and keyed by a hash, so they are independent of
    each other, and a longer stream begins with the shorter one.
    """
    key = hashlib.blake2b(f"{seed}/{prompt_id}/{index}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))).random(count)


def draw(logits_RV: Tensor, uniforms_R: Tensor, *, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Tokens (R,) drawn from softmax(logits / temperature) and their log-probabilities (R,), in float64.

    The token is the first one, in the order of the vocabulary, at which the cumulative probability exceeds
    its uniform. With `top_p` < 1 the draw is from the nucleus (Holtzman et al. 2020, "The Curious Case of
    Neural Text Degeneration"): the most probable tokens whose mass reaches top_p, and any that tie with the
    least of them. The log-probability returned is always that of the full distribution, because that is
    what a policy-gradient ratio needs. Temperature 0 takes the most probable token and returns its
    log-probability at temperature 1.
    """
    if logits_RV.device.type == "mps":  # has no float64
        logits_RV = logits_RV.cpu()
    chunk = max(1, CHUNK // logits_RV.shape[-1]) if logits_RV.device.type == "cpu" else len(logits_RV)
    parts = zip(logits_RV.split(chunk), uniforms_R.split(chunk), strict=True)
    drawn = [_draw(*part, temperature, top_p) for part in parts]
    tokens, logps = zip(*drawn, strict=True)
    return torch.cat(tokens), torch.cat(logps)


def _draw(logits_RV: Tensor, uniforms_R: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    if logits_RV.dtype in (torch.bfloat16, torch.float16):
        logits_RV = logits_RV.float()
    scaled_RV = logits_RV / temperature if temperature not in (0, 1) else logits_RV
    weights_RV = (scaled_RV - scaled_RV.amax(-1, keepdim=True)).exp_()
    weights_RV = F.pad(weights_RV, (0, -weights_RV.shape[-1] % BLOCK))  # no copy when nothing is missing
    sums_RB = _block_sums(weights_RV)
    totals_R1 = sums_RB.sum(-1, keepdim=True)
    if temperature == 0:
        return scaled_RV.argmax(-1), -totals_R1[:, 0].log()
    kept_RV = weights_RV
    if top_p < 1:
        kept_RV = weights_RV * (weights_RV >= _nucleus_floor(weights_RV, top_p * totals_R1))
        sums_RB = _block_sums(kept_RV)
    tokens_R = _search(kept_RV, sums_RB, uniforms_R)
    drawn_R = weights_RV.gather(-1, tokens_R[:, None])[:, 0].double()
    return tokens_R, drawn_R.log() - totals_R1[:, 0].log()


def _block_sums(weights_RV: Tensor) -> Tensor:
    return weights_RV.unflatten(-1, (-1, BLOCK)).sum(-1).double()


def _search(weights_RV: Tensor, sums_RB: Tensor, uniforms_R: Tensor) -> Tensor:
    """Which token each uniform falls on, given weights that need not add up to one.

    Two levels, first the block and then the token in it: a cumulative sum over the whole vocabulary would
    cost more, and in float32 it would lose the rare tokens.
    """
    cumulative_RB = sums_RB.cumsum(-1)
    targets_R1 = uniforms_R.to(cumulative_RB)[:, None] * cumulative_RB[:, -1:]
    block_R1 = _first_above(cumulative_RB, targets_R1)
    before_R1 = F.pad(cumulative_RB, (1, 0)).gather(-1, block_R1)
    rows_R = torch.arange(len(weights_RV), device=weights_RV.device)
    inside_RK = weights_RV.unflatten(-1, (-1, BLOCK))[rows_R, block_R1[:, 0]].double().cumsum(-1)
    return (block_R1 * BLOCK + _first_above(inside_RK, targets_R1 - before_R1))[:, 0]


def _first_above(cumulative_RK: Tensor, targets_R1: Tensor) -> Tensor:
    """Index of the first entry above the target; rounding cannot push it past the last entry with weight."""
    index_R1 = (cumulative_RK <= targets_R1).sum(-1, keepdim=True)
    last_R1 = (cumulative_RK < cumulative_RK[:, -1:]).sum(-1, keepdim=True)
    return torch.minimum(index_R1, last_R1)


def _nucleus_floor(weights_RV: Tensor, masses_R1: Tensor) -> Tensor:
    """The least weight (R, 1) in the smallest set of largest weights that reaches `masses_R1`.

    A full sort of the vocabulary is the slow way; the nucleus nearly always lies in the first few hundred.
    """
    width = weights_RV.shape[-1]
    size = min(width, 256)
    while True:
        top_RK = weights_RV.topk(size, dim=-1).values
        short_RK = top_RK.double().cumsum(-1) < masses_R1
        if size == width or not bool(short_RK[:, -1].any()):
            return top_RK.gather(-1, short_RK.sum(-1, keepdim=True).clamp(max=size - 1))
        size = min(width, size * 8)
