"""Sampling in this process, from a plain Hugging Face causal language model."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from accord.errors import ConfigError, DataError, ModelError, NumericsError
from accord.models.adapters import Trunk, sharing
from accord.records import Completion, Group, Prompt, Sampling
from accord.rollout.decoders import compact
from accord.rollout.decoding import decoding
from accord.rollout.draw import draw, uniforms
from accord.rollout.packed import Packing, multiplies_bfloat16
from accord.rollout.sampler import Progress, check_sampling


class Renders(Protocol):
    """The part of `data.render.Renderer` that a sampler needs."""

    end_id: int

    def prompt(self, prompt: Prompt) -> tuple[int, ...]: ...
    def text(self, ids: Sequence[int]) -> str: ...


@dataclass
class _Row:
    """A completion in the making."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    index: int
    last_of_prompt: bool
    uniforms: np.ndarray
    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)


class LocalSampler:
    """Samples with a causal language model in eval mode, without adapters.

    `rows` completions are decoded at once: more are faster and need more memory (keys and values of every
    row, up to its prompt plus its answer). Assign `policy_version` whenever the model's weights change;
    nothing derived from the weights is kept between calls.

    A completion is a function of (weights, prompt, sampling, sample index). The number of rows, the order of
    the prompts and the other rows change it only as far as rounding in the matrix products may, very rarely,
    tip a draw.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        renderer: Renders,
        *,
        policy_version: str,
        rows: int = 64,
        dtype: torch.dtype | None = None,
    ) -> None:
        """`dtype` bfloat16 multiplies in it inside the layers of a float32 model on a CPU: faster, and not
        quite the model.

        Raises ConfigError when `rows` is below 1, and when this processor or model has no use for `dtype`.
        """
        if rows < 1:
            raise ConfigError(f"rows is {rows}: decode at least one completion at a time")
        if dtype is not None:
            check_rounding(model)
        self.model, self.renderer, self.policy_version, self.rows = model, renderer, policy_version, rows
        self.dtype = dtype
        self._current: Callable[[], PreTrainedModel] = partial(sharing, model)

    def refresh(self, trunk: Trunk, name: str | None, version: str) -> None:
        """From now on sample from the trunk with adapter `name`, as it is at each call.

        They are merged for the length of a call, so that no second copy of the weights lies about meanwhile.
        """
        self._current, self.policy_version = partial(trunk.merged, name), version

    @torch.inference_mode()
    def sample(
        self, prompts: Sequence[Prompt], k: int, sampling: Sampling, *, on_progress: Progress | None = None
    ) -> list[Group]:
        """One group of k completions per prompt, in the order of `prompts`.

        Recorded log-probabilities are those of softmax(logits / temperature) over the whole vocabulary, also
        when `top_p` < 1, and at temperature 1 when the draw is greedy (temperature 0). A completion ends
        ("stop") with the renderer's end-of-turn token or an eos token of the model's generation config,
        which `token_ids` includes, or ("length") after `max_new_tokens`. Equal prompts share one group's
        completions.

        Raises ConfigError (k or sampling out of range), DataError (a prompt leaves no room for the answer),
        ModelError (model in training mode) and NumericsError (logits are not finite).
        """
        check_sampling(k, sampling)
        distinct = {prompt.id: prompt for prompt in prompts}
        rows = [row for prompt in distinct.values() for row in self._rows(prompt, k, sampling)]
        if rows:
            self._decode(rows, sampling, on_progress)
        done: dict[str, list[Completion]] = {prompt_id: [] for prompt_id in distinct}
        for row in rows:
            done[row.prompt.id].append(self._completion(row, sampling))
        return [Group(prompt, tuple(done[prompt.id])) for prompt in prompts]

    def _rows(self, prompt: Prompt, k: int, sampling: Sampling) -> Iterable[_Row]:
        prompt_ids = fitting_prompt(self.model, self.renderer, prompt, sampling.max_new_tokens)
        for index in range(k):
            stream = uniforms(sampling.seed, prompt.id, index, sampling.max_new_tokens)
            yield _Row(prompt, prompt_ids, index, index == k - 1, stream)

    def _weights(self) -> PreTrainedModel:
        model = self._current()
        if model.training:
            raise ModelError(
                "the model is in training mode, where dropout is on; call model.eval() to sample"
            )
        return model

    def _decode(self, rows: list[_Row], sampling: Sampling, on_progress: Progress | None) -> None:
        """Extend every row until it ends. A turn of the loop either lets rows in or adds a token to all."""
        # Equal token ids must stand together (different conversations may render alike): one prefill each.
        waiting = deque(sorted(rows, key=lambda row: (len(row.prompt_ids), row.prompt_ids)))
        active: list[_Row] = []
        at_once, ends = min(self.rows, len(rows)), end_ids(self.model, self.renderer)
        with decoding(self._weights(), at_once, self.dtype) as decoder:
            while waiting or active:
                entering = [waiting.popleft() for _ in range(decoder.admissible(waiting))]
                if entering:
                    active += entering
                    self._extend(entering, decoder.admit(entering), sampling)
                else:
                    self._extend(active, decoder.step([row.tokens[-1] for row in active]), sampling)
                order = compact([not _ended(row, sampling, ends) for row in active])
                if len(order) < len(active):
                    decoder.keep(order)
                    active = [active[i] for i in order]
                    if on_progress is not None:
                        on_progress(len(rows) - len(waiting) - len(active), len(rows))

    def _extend(self, rows: list[_Row], logits_NV: torch.Tensor, sampling: Sampling) -> None:
        points_N = torch.tensor([row.uniforms[len(row.tokens)] for row in rows], dtype=torch.float64)
        tokens_N, logps_N = draw(
            logits_NV,
            points_N,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
        )
        for row, token, logp in zip(rows, tokens_N.tolist(), logps_N.tolist(), strict=True):
            if not math.isfinite(logp):
                raise NumericsError(
                    f"the logits of policy {self.policy_version!r} are not finite at token {len(row.tokens)} "
                    f"of a completion of prompt {row.prompt.id}: its weights have diverged, go back to an "
                    "earlier checkpoint and lower the learning rate"
                )
            row.tokens.append(token)
            row.logps.append(logp)

    def _completion(self, row: _Row, sampling: Sampling) -> Completion:
        return Completion(
            row.prompt.id,
            self.renderer.text(row.tokens),
            tuple(row.tokens),
            tuple(row.logps),
            self.policy_version,
            sampling,
            "stop" if row.tokens[-1] in end_ids(self.model, self.renderer) else "length",
            row.index,
        )


def check_rounding(model: PreTrainedModel) -> None:
    """Raise ConfigError where bfloat16 products would not be faster than the model's own."""
    if model.device.type != "cpu" or model.dtype != torch.float32:
        dtype = str(model.dtype).removeprefix("torch.")
        raise ConfigError(
            f"sampler_precision bfloat16 is for a float32 model on a CPU, and this one is in {dtype} on "
            f"{model.device.type!r}: leave it out (on a GPU, --dtype bfloat16 makes all of it faster)"
        )
    if not multiplies_bfloat16():
        raise ConfigError(
            "sampler_precision bfloat16 needs a processor that multiplies it (avx512_bf16 or AMX), and this "
            "one does not; leave it out"
        )
    packing, head = Packing.of(model, 1, torch.bfloat16), model.get_output_embeddings()
    if not any(packing.takes(module) for module in model.modules() if module is not head):
        raise ConfigError(
            f"sampler_precision bfloat16 does nothing for a {type(model).__name__} of this size: its layers "
            "are not plain linear ones, or it is too large for a second copy of its weights; leave it out"
        )


def end_ids(model: PreTrainedModel, renderer: Renders) -> frozenset[int]:
    """The tokens that end an answer: the renderer's end of turn, and the model's eos tokens."""
    eos = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = eos if isinstance(eos, (list, tuple)) else [] if eos is None else [eos]
    return frozenset({renderer.end_id, *map(int, listed)})


def fitting_prompt(
    model: PreTrainedModel, renderer: Renders, prompt: Prompt, max_new_tokens: int
) -> tuple[int, ...]:
    """The prompt's token ids. Raises DataError when they leave no room for the answer."""
    prompt_ids = tuple(renderer.prompt(prompt))
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and len(prompt_ids) + max_new_tokens > context:
        raise DataError(
            f"prompt {prompt.id} ({prompt.source or 'no source'}) has {len(prompt_ids)} tokens, and with "
            f"max_new_tokens {max_new_tokens} it exceeds the model's context of {context}: "
            "shorten the prompt or lower max_new_tokens"
        )
    return prompt_ids


def _ended(row: _Row, sampling: Sampling, ends: frozenset[int]) -> bool:
    return len(row.tokens) >= sampling.max_new_tokens or row.tokens[-1] in ends
