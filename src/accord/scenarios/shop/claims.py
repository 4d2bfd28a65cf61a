"""What an answer claims about a product: which facts it states, and what it made up."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from accord.scenarios.shop.catalogue import SHOP, Fact, Product, describe, load_catalogue
from accord.scenarios.shop.language import (
    Quantity,
    contains,
    plain,
    position,
    quantities,
    sentences,
    words,
)
from accord.scenarios.shop.lexicon import feature_groups, word_list

# A sentence that says what the shop does not know claims nothing.
HEDGE = re.compile(
    r"n't (?:say|mention|state|list|specify|tell|know)|not (?:say|mention|state|know|tell|specify)|"
    r"not (?:\w+ )?(?:listed|mentioned|stated|given|specified|told|sure|certain)|"
    r"n't (?:\w+ )?(?:listed|mentioned|stated|given|specified|told|sure|certain)|"
    r"no (?:information|details?|word|mention|note)\b|nothing (?:about|on)\b|"
    r"n't have (?:any |that |the )?(?:information|details?|word|figure)|without (?:checking|asking)|"
    r"let me (?:check|ask)|(?:have|need) to (?:check|ask|look)|i(?:'d| would) rather (?:check|ask)"
)
_NEGATIONS = word_list("negations")
_DENIALS = frozenset(["not", "without", "isn't", "doesn't", "hasn't", "can't"])
_FUNCTION_WORDS = word_list("function_words")
_COMMON_NAMES = word_list("common_names")


@dataclass(frozen=True)
class Knowledge:
    """What can be known of a product, prepared for matching (all words stemmed)."""

    quantities: frozenset[tuple[float, str]]
    numbers: frozenset[float]
    vocabulary: frozenset[str]
    unsupported: tuple[frozenset[str], ...]  # feature phrases it does not have, synonyms together
    strangers: tuple[str, ...]  # other products and their accessories


@cache
def knowledge(product: Product) -> Knowledge:
    known_text = f"{SHOP}. {describe(product)} " + " ".join(a for f in product.facts for a in f.also)
    known_words = words(known_text)
    extra = product.goes_with
    amounts = quantities(f"{known_text} {product.price + extra.price} euros")  # both together
    return Knowledge(
        quantities=frozenset((q.value, q.unit) for q in amounts),
        numbers=frozenset(q.number for q in amounts),
        vocabulary=frozenset(known_words) | _COMMON_NAMES,
        unsupported=_unsupported(known_words),
        strangers=tuple(
            name
            for other in load_catalogue().values()
            if other.id != product.id
            for name in (other.name, other.goes_with.name)
            if name.lower() not in known_text.lower()
        ),
    )


def _unsupported(known: Sequence[str]) -> tuple[frozenset[str], ...]:
    """The feature groups' phrases of which neither they nor a synonym stands in the known words."""
    supported = [group for group in feature_groups() if any(contains(known, _stems(p)) for p in group)]
    allowed = frozenset(phrase for group in supported for phrase in group)
    return tuple(frozenset(group) - allowed for group in feature_groups())


def is_hedge(sentence: str) -> bool:
    """Whether the sentence says that something is not known."""
    return bool(HEDGE.search(plain(sentence).lower()))


def stated_facts(product: Product, answer: str) -> frozenset[str]:
    """The product's facts (by their catalogue text, and "price") that the answer states."""
    claims = [s for s in sentences(answer) if not is_hedge(s)]
    stated = {f.text for f in product.facts if any(_states((f.text, *f.also), s, product) for s in claims)}
    price = {(float(product.price), "euro"), (float(product.price), "")}
    if any((q.value, q.unit) in price for s in claims for q in _amounts(s, product)):
        stated.add("price")
    return frozenset(stated)


def inventions(product: Product, answer: str, excused: str = "") -> tuple[str, ...]:
    """Specifics in the answer that the catalogue does not support, each named once.

    Wrong or unknown quantities, features the product does not have, facts denied, other products, and names
    nobody knows. Words and numbers of `excused` (what the customer said) are not held against the answer.
    """
    known = knowledge(product)
    found: dict[str, None] = {}
    for sentence in sentences(answer):
        if is_hedge(sentence):
            continue
        found |= dict.fromkeys(_wrong_quantities(product, sentence, excused))
        found |= dict.fromkeys(_wrong_features(known, sentence, excused))
        found |= dict.fromkeys(f"not: {f.text}" for f in product.facts if _denies(f, sentence))
    found |= dict.fromkeys(
        name
        for name in known.strangers
        if re.search(rf"\b{re.escape(name)}\b", answer) and name not in excused
    )
    strange = " ".join(found)
    found |= dict.fromkeys(name for name in _unknown_names(known, answer, excused) if name not in strange)
    return tuple(found)


def _states(phrases: Sequence[str], sentence: str, product: Product) -> bool:
    text = words(sentence)
    if any(_found_plainly(text, _stems(phrase)) for phrase in phrases):
        return True
    wanted = [(q.value, q.unit) for q in quantities(phrases[0]) if q.unit]
    if wanted:
        return set(wanted) <= {(q.value, q.unit) for q in _amounts(sentence, product)}
    content = set(words(phrases[0])) - _FUNCTION_WORDS
    return len(content) > 1 and content <= set(text) and not _NEGATIONS & set(text)


def _found_plainly(text: Sequence[str], phrase: Sequence[str]) -> bool:
    at = position(text, phrase)
    return at >= 0 and not _NEGATIONS & set(text[max(0, at - 3) : at])


def _denies(fact: Fact, sentence: str) -> bool:
    text = words(sentence)
    for phrase in (fact.text, *fact.also):
        at = position(text, _stems(phrase))
        before = set(text[max(0, at - 3) : at]) if at >= 0 else set()
        if _DENIALS & before and "only" not in before:  # "not only" denies nothing
            return True
    return False


def _amounts(sentence: str, product: Product) -> list[Quantity]:
    """The quantities of a sentence, without those that belong to the product's name."""
    return quantities(re.sub(re.escape(product.name), " ", sentence, flags=re.IGNORECASE))


def _wrong_quantities(product: Product, sentence: str, excused: str) -> list[str]:
    known = knowledge(product)
    excused_numbers = {q.number for q in quantities(excused)}
    wrong = []
    for q in _amounts(sentence, product):
        if q.spelled and (not q.unit or q.number <= 1):  # "two good reasons", "one day"
            continue
        supported = (q.value, q.unit) in known.quantities if q.unit else q.number in known.numbers
        if not supported and q.number not in excused_numbers:
            wrong.append(q.text)
    return wrong


def _wrong_features(known: Knowledge, sentence: str, excused: str) -> list[str]:
    text, said = words(sentence), words(excused)
    groups = (
        sorted(p for p in group if contains(text, _stems(p)) and not contains(said, _stems(p)))
        for group in known.unsupported
    )
    return [claimed[0] for claimed in groups if claimed]


@cache
def _stems(phrase: str) -> tuple[str, ...]:
    return tuple(words(phrase))


def _unknown_names(known: Knowledge, answer: str, excused: str) -> list[str]:
    """Capitalised words inside a sentence that neither the catalogue nor the customer used.

    Features ("Bluetooth") are counted elsewhere.
    """
    said = known.vocabulary | set(words(excused)) | {p for group in known.unsupported for p in group}
    names = []
    for sentence in sentences(answer):
        if is_hedge(sentence):
            continue
        for match in re.finditer(r"(?<=[a-zA,'’] )[A-Z][\w'’]*|\b[A-Z]?[a-z]+[A-Z]\w*", sentence):
            name = match[0]
            plain_name = name.lower().replace("’", "'").removesuffix("'s")
            if not {plain_name, *words(name)} & said:
                names.append(name)
    return names
