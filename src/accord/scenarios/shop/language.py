"""Just enough of English to compare an answer with a catalogue: words, sentences, quantities.

Words are lower case and crudely stemmed, spelled numbers are digits, units have one name, so that
"lasts seven days", "7-day" and "7 Days" meet.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_COUNTED = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
_TENS = {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
NUMBER_WORDS = {word: value for value, word in enumerate(_COUNTED.split())} | _TENS

# unit name -> (base unit, factor); quantities are compared in base units
_UNITS = {
    "mm millimetre millimeter": ("mm", 1.0),
    "cm centimetre centimeter": ("mm", 10.0),
    "m metre meter": ("mm", 1000.0),
    "km kilometre kilometer": ("mm", 1e6),
    "inch inches foot feet": ("inch", 1.0),
    "g gram gramme": ("g", 1.0),
    "kg kilo kilogram kilogramme": ("g", 1000.0),
    "pound lb lbs ounce oz": ("pound", 1.0),
    "ml millilitre milliliter": ("ml", 1.0),
    "cl centilitre": ("ml", 10.0),
    "l litre liter": ("ml", 1000.0),
    "cup": ("cup", 1.0),
    "s second sec": ("s", 1.0),
    "min minute": ("s", 60.0),
    "h hour hr": ("s", 3600.0),
    "day": ("s", 86400.0),
    "week": ("s", 604800.0),
    "month": ("month", 1.0),
    "year": ("year", 1.0),
    "w watt": ("w", 1.0),
    "kw kilowatt": ("w", 1000.0),
    "v volt": ("v", 1.0),
    "mah": ("mah", 1.0),
    "hz hertz": ("hz", 1.0),
    "db decibel": ("db", 1.0),
    "lumen lm": ("lumen", 1.0),
    "lux": ("lux", 1.0),
    "bar": ("bar", 1.0),
    "psi": ("psi", 1.0),
    "degree celsius": ("degree", 1.0),
    "percent": ("percent", 1.0),
    "gb mb": ("gb", 1.0),
    "pixel megapixel mp": ("pixel", 1.0),
    "euro eur": ("euro", 1.0),
    "dollar usd": ("dollar", 1.0),
    "gbp": ("gbp", 1.0),
}
UNITS = {name: base for names, base in _UNITS.items() for name in names.split()}
_CURRENCIES = {"€": "euro", "$": "dollar", "£": "gbp"}
_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+(?:'[^\W\d_]+)?")


@dataclass(frozen=True)
class Quantity:
    """A number with the unit that follows it (base unit "" where none does)."""

    text: str  # as written
    number: float
    value: float  # in base units
    unit: str
    spelled: bool = False  # written as a word ("two"), which need not be a claim


def plain(text: str) -> str:
    """NFKC, straight quotes, currency after its number, no thousands separators."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'").replace("‘", "'")
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"(?<=\d),(?=\d{1,2}\b)", ".", text)
    text = re.sub(r"([€$£])\s*(\d+(?:\.\d+)?)", lambda m: f"{m[2]} {_CURRENCIES[m[1]]}", text)
    return re.sub(r"[€$£%]", lambda m: f" {_CURRENCIES.get(m[0], 'percent')} ", text)


def raw_words(text: str) -> list[str]:
    """Lower-case words and numbers, unstemmed; hyphens part words."""
    return _WORD.findall(plain(text).lower())


def stem(word: str) -> str:
    """A crude stem: enough to join plurals and the common verb forms."""
    if word in NUMBER_WORDS:
        return str(NUMBER_WORDS[word])
    if word[0].isdigit():
        return f"{float(word):g}"
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)]
            break
    if len(word) > 3 and word[-1] == word[-2]:  # cancelling, cancels
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


def words(text: str) -> list[str]:
    """Stemmed words in order, numbers as digits."""
    return [stem(word) for word in raw_words(text)]


def sentences(text: str) -> list[str]:
    """Sentences with their closing punctuation; a decimal point closes nothing."""
    return [s.strip() for s in re.split(r"(?<=[.!?])[\"')]*\s+|\n+", text) if s.strip()]


def quantities(text: str) -> list[Quantity]:
    """Every number in the text, with the unit that follows it."""
    found: list[Quantity] = []
    tokens = raw_words(re.sub(r"(?m)^\s*\d+[.)]\s+", "", text))  # list numbers are no claims
    for word, following in zip(tokens, [*tokens[1:], ""], strict=False):
        spelled = word in NUMBER_WORDS
        if not spelled and not word[0].isdigit():
            continue
        value = float(NUMBER_WORDS[word]) if spelled else float(word)
        base, factor = UNITS.get(following) or UNITS.get(following.removesuffix("s")) or ("", 1.0)
        text = f"{word} {following}" if base else word
        found.append(Quantity(text, value, round(value * factor, 6), base, spelled))
    return found


def contains(haystack: Sequence[str], needle: Sequence[str]) -> bool:
    """Whether `needle` occurs in `haystack` as a run."""
    return position(haystack, needle) >= 0


def position(haystack: Sequence[str], needle: Sequence[str]) -> int:
    """Where `needle` first occurs in `haystack` as a run, or -1."""
    needle, width = tuple(needle), len(needle)
    starts = (i for i in range(len(haystack) - width + 1) if haystack[i] == needle[0])
    return next((i for i in starts if tuple(haystack[i : i + width]) == needle), -1)
