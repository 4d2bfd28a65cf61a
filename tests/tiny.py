"""A byte tokenizer with a chat template and tiny random models, made in code: tests fetch nothing.

The end-of-turn token (`<|im_end|>`) is deliberately not the tokenizer's eos (`<|endoftext|>`, also the
padding token), as with Llama 3: code that trusts `eos_token_id` to end a turn fails here.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # ids 256, 257, 258, after the 256 bytes
VOCAB = 256 + len(SPECIAL)
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_tokenizer(chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """One token per UTF-8 byte, three special tokens; `chat_template=None` gives a base-model tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_llama(
    vocab: int = VOCAB, layers: int = 2, hidden: int = 32, seed: int = 0, **overrides: object
) -> PreTrainedModel:
    """A random Llama with grouped-query attention, in eval mode, float32."""
    config = LlamaConfig(**{**_rotary(vocab, layers, hidden), "num_key_value_heads": 2, **overrides})
    return _build(LlamaForCausalLM, config, seed)


def tiny_qwen(
    vocab: int = VOCAB, layers: int = 2, hidden: int = 32, seed: int = 0, **overrides: object
) -> PreTrainedModel:
    """A random Qwen2 (biased projections, tied embeddings), in eval mode, float32."""
    tied = {"num_key_value_heads": 2, "tie_word_embeddings": True}
    config = Qwen2Config(**{**_rotary(vocab, layers, hidden), **tied, **overrides})
    return _build(Qwen2ForCausalLM, config, seed)


def tiny_gpt2(
    vocab: int = VOCAB, layers: int = 2, hidden: int = 32, seed: int = 0, **overrides: object
) -> PreTrainedModel:
    """A random GPT-2 (learned absolute positions, no dropout), in eval mode, float32."""
    shape = {"vocab_size": vocab, "n_layer": layers, "n_embd": hidden, "n_head": 4, "n_positions": 1024}
    still = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    return _build(GPT2LMHeadModel, GPT2Config(**{**shape, **still, **_common(), **overrides}), seed)


def _rotary(vocab: int, layers: int, hidden: int) -> dict[str, object]:
    return {
        "vocab_size": vocab,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_attention_heads": 4,
        "max_position_embeddings": 1024,
        **_common(),
    }


def _common() -> dict[str, object]:
    # The wide initialisation makes attention matter: with 0.02 a wrong mask would hardly show.
    return {"initializer_range": 0.2, "bos_token_id": None, "eos_token_id": 256, "pad_token_id": 256}


def _build(kind: type[PreTrainedModel], config: object, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(config).eval()
