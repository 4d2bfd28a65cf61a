"""The default scenario: a shop's assistant that learns from its customers' judges how to advise."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from accord.errors import DataError
from accord.records import Completion, Group, Prompt
from accord.scenarios.shop.catalogue import HERE, Product, load_catalogue, system_message
from accord.scenarios.shop.rubric import ASKS, BASE_WEIGHTS, Enquiry, traits

SOURCE = "shop"


@dataclass(frozen=True)
class Scenario:
    """Everything a round of RLHF needs to know about a domain.

    `traits` measures an answer (see rubric.py); `base_weights` says what a simulated panel values in it;
    `guideline` is the Markdown text that raters follow.
    """

    name: str
    products: tuple[Product, ...]
    train_prompts: tuple[Prompt, ...]
    heldout_prompts: tuple[Prompt, ...]
    demonstrations: tuple[Group, ...]
    traits: Callable[[Prompt, Completion], Mapping[str, float]]
    base_weights: Mapping[str, float]
    guideline: str


@cache
def load_scenario() -> Scenario:
    """The shop: products, customers' questions, demonstrations, the rubric and the raters' guideline."""
    products = load_catalogue()
    rows = read_prompts()
    prompts = {row["id"]: _prompt(row, products[row["product"]]) for row in rows}
    split = {row["id"]: products[row["product"]].split for row in rows}
    return Scenario(
        name=SOURCE,
        products=tuple(products.values()),
        train_prompts=tuple(p for key, p in prompts.items() if split[key] == "train"),
        heldout_prompts=tuple(p for key, p in prompts.items() if split[key] == "heldout"),
        demonstrations=tuple(Group.of(prompts[row["prompt"]], row["text"]) for row in read_demonstrations()),
        traits=shop_traits,
        base_weights=BASE_WEIGHTS,
        guideline=(HERE / "guideline.md").read_text(encoding="utf-8"),
    )


def shop_traits(prompt: Prompt, completion: Completion) -> dict[str, float]:
    """The traits of a completion for one of the shop's prompts. Raises DataError for other prompts."""
    return traits(enquiry_of(prompt), completion.text, finished=completion.finish_reason == "stop")


def enquiry_of(prompt: Prompt) -> Enquiry:
    """The enquiry behind one of the shop's prompts, from its tags (product id, what is asked)."""
    product = load_catalogue().get(prompt.tags[0]) if prompt.tags else None
    if product is None or prompt.source != SOURCE:
        raise DataError(
            f"prompt {prompt.id} (source {prompt.source!r}, tags {prompt.tags}) is not one of the shop's: "
            f"its source must be {SOURCE!r} and its first tag a product id"
        )
    asks = prompt.tags[1] if len(prompt.tags) > 1 and ASKS.fullmatch(prompt.tags[1]) else "general"
    return Enquiry(product, prompt.messages[-1].content, asks)


def read_prompts() -> list[dict[str, Any]]:
    """The customers' questions: rows of id, product, asks, text."""
    return _read_jsonl("prompts.jsonl")


def read_demonstrations() -> list[dict[str, Any]]:
    """The clerks' answers: rows of prompt (its id), style (for analysis only), text."""
    return _read_jsonl("demonstrations.jsonl")


def _read_jsonl(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines() if line]


def _prompt(row: dict[str, Any], product: Product) -> Prompt:
    return Prompt.of(
        row["text"], system=system_message(product), source=SOURCE, tags=(product.id, row["asks"])
    )
