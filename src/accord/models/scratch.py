"""New models and their tokenizers, made in code: nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from accord.config.pretrain import FromScratch
from accord.errors import ConfigError
from accord.models.device import here, on_cpu

END, TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# So that the model can be fine-tuned on conversations afterwards.
_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """One token per UTF-8 byte, and the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _finished(core)


def bpe_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Byte-level BPE (Sennrich et al. 2016) learned from `texts`; no text is unknown to it."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size - 3,  # three special tokens follow
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return _finished(core)


def _finished(core: Tokenizer) -> PreTrainedTokenizerBase:
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([END, TURN, END_OF_TURN])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=END,
        extra_special_tokens=[TURN, END_OF_TURN],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _CHATML
    return tokenizer


def new_llama(
    shape: FromScratch, tokenizer: PreTrainedTokenizerBase, *, length: int, seed: int
) -> PreTrainedModel:
    """A Llama with random weights, N(0, 0.02²). Raises ConfigError for a shape that cannot be."""
    kv_heads = shape.kv_heads or shape.heads
    if shape.hidden_size % (2 * shape.heads) or shape.heads % kv_heads:
        raise ConfigError(
            f"from_scratch: hidden_size {shape.hidden_size} must be an even multiple of heads "
            f"{shape.heads}, and heads a multiple of kv_heads {kv_heads}"
        )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=kv_heads,
        intermediate_size=shape.intermediate_size or 16 * round(shape.hidden_size / 6),
        max_position_embeddings=max(length, 2048),
        tie_word_embeddings=shape.tie_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]), on_cpu():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return cast(Any, model).to(here())
