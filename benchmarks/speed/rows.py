"""The models and rows that both sides are given."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from accord.data.datasets import load_preferences
from accord.data.render import Renderer
from accord.models.load import load_model
from accord.records import Group, Preference, Prompt
from speed.task import spread, write_rows

MAX_PROMPT, MAX_ANSWER = 160, 128
WORDS = "time year people way day man thing woman life child world school state family student"

# Random Llamas of other sizes, with the embedded model's vocabulary: speed does not ask what weights say.
SHAPES = {
    "random-0.5b": {
        "hidden_size": 1280,
        "intermediate_size": 3520,
        "num_hidden_layers": 24,
        "num_attention_heads": 20,
        "num_key_value_heads": 5,
    },
    "random-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}


def write_model(name: str, folder: Path, dtype: str) -> Path:
    """`folder` with the model `name` (a shape above, or anything Accord loads), whose answers never end.

    An untrained policy ends its answers by chance. Here the end of a turn is a token that the model never
    says, so that every answer has exactly as many tokens as were asked for, on both sides.
    """
    if (folder / "config.json").exists():
        return folder
    loaded = load_model("smollm2-135m-instruct" if name in SHAPES else name, dtype=dtype)
    model: Any = loaded.model
    tokenizer = loaded.tokenizer
    if name in SHAPES:
        model = _random_model(name, model.config.vocab_size).to(model.dtype)
    end, padding = _unused(tokenizer)
    said = str(tokenizer.convert_ids_to_tokens(Renderer(tokenizer).end_id))
    tokenizer.chat_template = str(tokenizer.chat_template).replace(said, end)
    tokenizer.eos_token, tokenizer.pad_token = end, padding
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _random_model(name: str, vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape: Any = SHAPES[name]
    config = LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=True, bos_token_id=None, **shape)
    return LlamaForCausalLM(config)


def _unused(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Two special tokens that no conversation contains."""
    names = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    used = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token}
    spare = [n for n in names if n not in str(tokenizer.chat_template) and n not in used]
    if len(spare) < 2:
        raise SystemExit("the model's tokenizer has no two unused special tokens; take the embedded model")
    return spare[-1], spare[-2]


def hh_rows(path: Path, renderer: Renderer, n: int) -> list[Preference]:
    """`n` comparisons of a file of preferences, of all lengths within the limits, each prompt once."""
    distinct = {p.prompt.id: p for p in load_preferences(str(path)).rows}
    fitting = sorted(
        (sum(lengths), i, p)
        for i, (lengths, p) in enumerate((_lengths(p, renderer), p) for p in distinct.values())
        if lengths[0] <= MAX_PROMPT and max(lengths[1:]) <= MAX_ANSWER
    )
    return [p for _, _, p in spread(fitting, n)]


def made_rows(
    renderer: Renderer, n: int, *, prompt: int = 80, answer: int = 40, ratio: float = 1.0
) -> list[Preference]:
    """`n` comparisons of words, of about so many tokens; rejected answers have `ratio` times as many.

    Up to sixteen prompts begin differently: pairs of one prompt would be one group, and one of a batch.
    """
    rng, words = random.Random(0), WORDS.split()
    frame = len(renderer.prompt(Prompt.of("x")))

    def text(tokens: int, *first: str) -> str:
        return " ".join([*first, *rng.choices(words, k=max(0, tokens - len(first)))])

    def preference(i: int) -> Preference:
        asked = Prompt.of(text(prompt - frame, words[i % len(words)]))
        return Preference(asked, text(answer - 1), text(round(answer * ratio) - 1))

    return [preference(i) for i in range(n)]


def _lengths(p: Preference, renderer: Renderer) -> list[int]:
    """Tokens of the prompt, the chosen and the rejected answer."""
    encoded = renderer.group(Group.of(p.prompt, p.chosen, p.rejected))
    return [len(encoded.prompt_ids), *map(len, encoded.completion_ids)]


def write(folder: Path, preferences: Sequence[Preference], renderer: Renderer) -> Path:
    """pairs.jsonl, demonstrations.jsonl and prompts.jsonl in TRL's formats, and the rows' lengths."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = []
    for p in preferences:
        prompt = [{"role": m.role, "content": m.content} for m in p.prompt.messages]
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (p.chosen, p.rejected))
        pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    write_rows(folder / "pairs.jsonl", pairs)
    demonstrations = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    write_rows(folder / "demonstrations.jsonl", demonstrations)
    write_rows(folder / "prompts.jsonl", [{"prompt": row["prompt"]} for row in pairs])
    lengths = [_lengths(p, renderer) for p in preferences]
    names = ("prompt", "chosen", "rejected")
    write_rows(folder / "lengths.jsonl", [dict(zip(names, row, strict=True)) for row in lengths])
    return folder
