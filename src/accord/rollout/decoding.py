"""Which decoder a model gets, and the packed weights it runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from accord.rollout.decoders import Decoder, decoder_for
from accord.rollout.llama import Llama, is_llama
from accord.rollout.packed import packed_linears
from accord.rollout.siblings import Siblings


@contextmanager
def decoding(model: PreTrainedModel, rows: int, dtype: torch.dtype | None = None) -> Iterator[Decoder]:
    """The fastest decoder that the model allows, on its weights as they are now.

    The model may be taken apart (`adapters.sharing` makes one to give away). `dtype` is that of matrix
    products, where it is not the model's. Raises ModelError for a model without a cache.
    """
    if is_llama(model):
        packed = Llama(model, rows, dtype)
        del model  # made for this block alone
        yield Siblings(packed, rows)
        return
    decoder = decoder_for(model, rows)
    with packed_linears(model, rows, dtype):
        yield decoder
