"""The rubric's word lists.

`lexicon.json` holds: negations, function words, names that are nobody's brand, technical jargon, words that a
helpful question is made of, common English, hype (regular expressions), and product features in groups of
synonyms.
"""

from __future__ import annotations

import json
from functools import cache

from accord.scenarios.shop.catalogue import HERE


@cache
def _lists() -> dict[str, list]:
    return json.loads((HERE / "lexicon.json").read_text(encoding="utf-8"))


def word_list(name: str) -> frozenset[str]:
    """One of the plain lists."""
    return frozenset(_lists()[name])


def feature_groups() -> tuple[tuple[str, ...], ...]:
    """Phrases that name a feature, those that mean the same together. A phrase may stand in two groups."""
    return tuple(tuple(group) for group in _lists()["features"])


def hype_pattern() -> str:
    """A regular expression for the language of pushing."""
    return "|".join(_lists()["hype"])
