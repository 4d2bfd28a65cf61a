"""Settings of pre-training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from accord.config.base import STRICT, Lora, Optim, Settings, Stage


class FromScratch(Settings):
    """The shape of a new Llama (Touvron et al. 2023)."""

    hidden_size: int = Field(256, gt=0, description="width")
    layers: int = Field(4, gt=0, description="depth")
    heads: int = Field(4, gt=0, description="attention heads; must divide the width")
    kv_heads: int | None = Field(None, gt=0, description="heads for keys and values; null for as many")
    intermediate_size: int | None = Field(
        None, gt=0, description="width of the feed-forward layers; null for 8/3 of the width"
    )
    tie_embeddings: bool = Field(True, description="the output layer is the input embedding")
    tokenizer: str = Field(
        "bytes", description="bytes, bpe (trained on the data), or a model whose tokenizer is taken"
    )
    vocab_size: int = Field(8192, gt=256, description="of a trained bpe")


class PretrainConfig(Stage):
    """Next-token training on plain text, continued from a model or from scratch."""

    model: str | None = Field(
        None, description="a folder, a hub id, or smollm2-135m-instruct; null with from_scratch"
    )
    from_scratch: FromScratch | None = Field(None, description="{} for a new model of the default shape")
    data: str = Field(
        description="text: .txt (a file is a document), rows with a text column, a folder, a hub name"
    )
    documents: Literal["file", "paragraph", "line"] = Field(
        "file", description="what a document is in .txt files (a paragraph ends at an empty line)"
    )
    epochs: float = Field(1.0, gt=0, description="passes over the data")
    length: int = Field(1024, gt=1, description="tokens in a row; documents are packed into rows")
    batch_size: int = Field(8, gt=0, description="rows per step")
    held_out: float = Field(0.05, ge=0, lt=1, description="share of the documents kept for perplexity")
    lora: Lora | None = Field(None, description="null trains all weights")
    optim: Optim = Optim(
        learning_rate=3e-4,
        warmup_share=0.02,
        schedule="cosine",
        weight_decay=0.1,
        adam_beta2=0.95,
        tokens_per_microbatch=4096,
    )
    save: Literal["merged", "adapter"] = Field(
        "merged", description="a whole model, or only the PEFT adapter"
    )
    strict: bool = STRICT
