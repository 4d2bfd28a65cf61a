"""What people value in a shop assistant's answer, measured: thirteen traits between 0 and 1.

Deterministic and blind to style beyond what is listed here. Every trait saturates, and none can be had by
repeating oneself: a policy that is trained against these opinions must not find a shortcut.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from accord.scenarios.shop.catalogue import HERE, Product, describe
from accord.scenarios.shop.claims import inventions, is_hedge, stated_facts
from accord.scenarios.shop.language import contains, quantities, raw_words, sentences, words
from accord.scenarios.shop.lexicon import hype_pattern, word_list

# Who asks what: see prompts.jsonl. "fact:2" asks for the product's second fact.
ASKS = re.compile(r"general|price|companion|unlisted|fact:[1-9]")

# What the simulated raters value, in units of their noise (see feedback.panel).
BASE_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "facts": 2.0,
        "direct": 1.0,
        "companion": 1.2,
        "question": 1.5,
        "invented": -3.0,
        "brief": -1.5,
        "long": -1.5,
        "technical": -1.8,
        "pushy": -1.2,
        "repetition": -2.5,
        "unfinished": -2.0,
        "broken": -3.0,
        "stray": -2.0,
    }
)
TRAITS = tuple(BASE_WEIGHTS)

_JARGON = frozenset(words(" ".join(word_list("jargon"))))
_HYPE = re.compile(hype_pattern())
# No vowels, six consonants in a row, or a digit grown into a word.
_NONWORD = re.compile(r"\b(?=[a-z]{4,}\b)[^aeiouy\W\d_]+\b|[b-df-hj-np-tv-xz]{6,}|[a-z]{2,}\d")
# Stems that a helpful question to a customer is made of, besides the product's own words.
_NEXT_STEP = frozenset(words(" ".join(word_list("next_step"))))
_ADDRESSED = re.compile(
    r"\b(?:would|do|did|are|will|shall|should|may|can|could|have|is|does|what|which|how|who|where|when)\b"
)
_CUSTOMER = re.compile(
    r"\b(?:you|your|yours|i|we|us)\b|^(?:is|are) there\b|^(?:who|what|which|how|where|when)\b"
)
_HOLLOW = re.compile(
    r"anything else|(?:can|may) i help(?: you)?(?: today| with \w+)?\W*$|any (?:other )?questions|"
    r"what can i do|how are you|are you sure|what'?s it|what is it\b"
)


@dataclass(frozen=True)
class Enquiry:
    """A customer's question about one product, and what it asks for (see ASKS)."""

    product: Product
    text: str
    asks: str = "general"


def traits(enquiry: Enquiry, answer: str, *, finished: bool = True) -> dict[str, float]:
    """All traits of an answer. `finished`: it ended by itself instead of being cut off."""
    product = enquiry.product
    stated = stated_facts(product, answer)
    invented = inventions(product, answer, _excused(enquiry))
    n = len(raw_words(answer))
    return {
        "facts": min(len(stated), 3) / 3,
        "direct": _direct(enquiry, answer, stated, invented),
        "companion": _companion(product, answer),
        "question": _question(enquiry, answer) * (1.0 if stated or _admits(answer) else 0.3),
        "invented": 1 - 0.5 ** len(invented),
        "brief": _clip((20 - n) / 20),
        "long": _clip((n - 60) / 40),
        "technical": _technical(product, answer, n),
        "pushy": _clip((len(_HYPE.findall(answer.lower())) + max(0, answer.count("!") - 1)) / 3),
        "repetition": _repetition(answer),
        "unfinished": _unfinished(answer, finished),
        "broken": _broken(answer),
        "stray": _stray(answer, enquiry),
    }


def has_invention(enquiry: Enquiry, answer: str) -> bool:
    """Whether the answer states something that the catalogue does not support."""
    return bool(inventions(enquiry.product, answer, _excused(enquiry)))


def _excused(enquiry: Enquiry) -> str:
    """The customer's words may be repeated, unless they ask for something the shop does not know."""
    return "" if enquiry.asks == "unlisted" else enquiry.text


def _direct(enquiry: Enquiry, answer: str, stated: frozenset[str], invented: tuple[str, ...]) -> float:
    """Whether the answer gives what was asked for."""
    asks, product = enquiry.asks, enquiry.product
    if asks.startswith("fact:"):
        return float(product.facts[int(asks[5:]) - 1].text in stated)
    if asks == "unlisted":
        return float(_admits(answer) and not invented)
    if asks == "companion":
        return _companion(product, answer)
    return float("price" in stated if asks == "price" else bool(stated))


def _admits(answer: str) -> bool:
    """Whether it says that something is not known."""
    return any(map(is_hedge, sentences(answer)))


def _companion(product: Product, answer: str) -> float:
    """Whether it suggests what goes with the product: 1 by name, 0.6 by kind, 0.3 by label."""
    name = words(product.goes_with.name)
    short = [word for word in name if word not in words(product.name)]
    text = [w for s in sentences(answer) if not is_hedge(s) for w in words(s)]
    if re.search(r"goes with:", answer, re.IGNORECASE):
        return 0.3
    if contains(text, name) or (len(short) > 1 and contains(text, short)):
        return 1.0
    own = words(f"{product.kind} " + " ".join(f.text for f in product.facts))
    return 0.6 if name[-1] in text and name[-1] not in own else 0.0


def _question(enquiry: Enquiry, answer: str) -> float:
    """Whether it ends with one question that takes the customer further: 1; a hollow one: 0.3."""
    said = sentences(answer)
    if len(said) < 2 or not said[-1].endswith("?") or said[-1].endswith("??"):
        return 0.0
    last = raw_words(said[-1])
    asked_before = sum(s.endswith("?") for s in said[:-1])
    echo = len(set(words(said[-1])) & set(words(enquiry.text))) / max(1, len(set(words(said[-1]))))
    if not 3 <= len(last) <= 25 or asked_before > 1 or echo > 0.7 or not _CUSTOMER.search(" ".join(last)):
        return 0.0
    if not _ADDRESSED.search(" ".join(last)) or len(raw_words(" ".join(said[:-1]))) < 5:
        return 0.0
    product = enquiry.product
    topical = _NEXT_STEP | set(words(f"{describe(product)} {product.category}"))
    if _HOLLOW.search(said[-1].lower()) or not (set(words(said[-1])) & topical):
        return 0.3
    return 1.0 if asked_before == 0 else 0.5


def _technical(product: Product, answer: str, n: int) -> float:
    """Specifications without a sentence around them: figures per word, jargon, copying the entry."""
    figures = len(quantities(re.sub(re.escape(product.name), " ", answer, flags=re.IGNORECASE)))
    jargon = len({w for w in words(answer) if w in _JARGON} - set(words(describe(product))))
    density = (figures + jargon) * 10 / max(n, 15)
    copied = _longest_copy(words(describe(product)), words(answer))
    return _clip(max((density - 1.6) / 2, (jargon - 1) / 4, (copied - 9) / 8))


def _longest_copy(source: list[str], text: list[str]) -> int:
    """The longest run of words that stands in both."""
    best, previous = 0, [0] * (len(source) + 1)
    for word in text:
        current = [0] * (len(source) + 1)
        for j, other in enumerate(source):
            if word == other:
                current[j + 1] = previous[j] + 1
        best, previous = max(best, *current), current
    return best


def _repetition(answer: str) -> float:
    """Runs of four words, sentences and figures that come again."""
    text, said = words(answer), [tuple(words(s)) for s in sentences(answer)]
    runs = [tuple(text[i : i + 4]) for i in range(len(text) - 3)]
    again = 1 - len(set(runs)) / len(runs) if runs else 0.0
    figures = [(q.value, q.unit) for q in quantities(answer) if q.unit]
    return _clip(2 * again + 0.5 * (len(said) - len(set(said))) + 0.25 * (len(figures) - len(set(figures))))


def _unfinished(answer: str, finished: bool) -> float:
    if not finished:
        return 1.0
    return 0.0 if re.search(r"[.!?][\"')]*\s*$", answer) else 0.5


def _broken(answer: str) -> float:
    """Debris rather than language: foreign scripts, stuttered punctuation, markup, rows of questions."""
    text = answer.strip()
    if not re.search(r"[A-Za-z]{2}", text):
        return 1.0
    strange = sum(not (c.isascii() or c in "€£–—’‘“”°éèüöäåøçñ…½¼") for c in text)
    stutter = len(re.findall(r"[!?.,;:]{2,}|[-_*#=]{3,}|<\|", text.replace("...", "…")))
    rows = max(0, text.count("?") - 2)
    nonsense = len(_NONWORD.findall(text.lower()))
    shouting = len(re.findall(r"\b[A-Z]{5,}\b", text))
    return _clip(strange / 3 + stutter / 2 + rows / 2 + nonsense / 3 + shouting / 3)


def _stray(answer: str, enquiry: Enquiry) -> float:
    """How far it wanders from what is said in this shop, by its words: one in twenty may be new."""
    text = [word for word in words(answer) if not word[0].isdigit()]
    known = shop_vocabulary() | set(words(enquiry.text))
    return _clip((sum(word not in known for word in text) / max(len(text), 10) - 0.05) / 0.2)


@cache
def shop_vocabulary() -> frozenset[str]:
    """Stems that belong in the shop: the catalogue's, the customers', the clerks', and common English."""
    files = ("catalogue.json", "prompts.jsonl", "demonstrations.jsonl", "guideline.md")
    text = " ".join((HERE / name).read_text(encoding="utf-8") for name in files)
    return frozenset(words(text)) | frozenset(words(" ".join(word_list("common_words"))))


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))
