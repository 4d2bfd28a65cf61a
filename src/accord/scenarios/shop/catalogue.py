"""The shop's catalogue, and the system message that tells the assistant what is in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

HERE = Path(__file__).parent
SHOP = "Lindqvist's shop"


@dataclass(frozen=True)
class Fact:
    """One thing that is true of a product; `also` lists other wordings that state the same."""

    text: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Accessory:
    name: str
    price: int  # euros


@dataclass(frozen=True)
class Product:
    id: str
    split: Literal["train", "heldout"]
    category: str
    name: str
    kind: str
    price: int  # euros
    facts: tuple[Fact, ...]
    goes_with: Accessory


@cache
def load_catalogue() -> MappingProxyType[str, Product]:
    """All products by id, in the catalogue's order."""
    rows = json.loads((HERE / "catalogue.json").read_text(encoding="utf-8"))
    return MappingProxyType({row["id"]: _product(row) for row in rows})


def _product(row: dict) -> Product:
    facts = tuple(Fact(fact["text"], tuple(fact["also"])) for fact in row["facts"])
    return Product(**{**row, "facts": facts, "goes_with": Accessory(**row["goes_with"])})


def describe(product: Product) -> str:
    """The product's entry: everything that a good answer may state about it."""
    facts = "; ".join(fact.text for fact in product.facts)
    extra = product.goes_with
    return (
        f"{product.name} {product.kind}, {product.price} euros: {facts}. "
        f"Goes with: {extra.name}, {extra.price} euros."
    )


def system_message(*products: Product) -> str:
    """What the assistant is told: who it is and what is in stock."""
    return " ".join([f"You are the assistant of {SHOP}. In stock:", *map(describe, products)])
