"""Words, sentences and quantities of shop English."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.scenarios.shop.language import position, quantities, sentences, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a 7-day battery", "a seven day battery"),
        ("noise cancelling", "noise cancels"),
        ("it folds flat", "it fold flat"),
        ("tip sizes", "tip size"),
        ("USB Charging", "usb charge"),
    ],
)
def test_forms_of_a_word_meet(one: str, other: str) -> None:
    assert words(one) == words(other)


@pytest.mark.parametrize(("one", "other"), [("glass", "glas"), ("case", "cash"), ("no", "now"), ("kg", "g")])
def test_different_words_stay_apart(one: str, other: str) -> None:
    assert words(one) != words(other)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("34 g", 34, "g"),
        ("34g", 34, "g"),
        ("2.4 kilos", 2400, "g"),
        ("50 metres", 50000, "mm"),
        ("a 50-metre pool", 50000, "mm"),
        ("1.7 litres", 1700, "ml"),
        ("1,7 litres", 1700, "ml"),
        ("3,000 mm", 3000, "mm"),
        ("€189", 189, "euro"),
        ("189 €", 189, "euro"),
        ("$9.50", 9.5, "dollar"),
        ("seven days", 604800, "s"),
        ("one week", 604800, "s"),
        ("40%", 40, "percent"),
        ("18 settings", 18, ""),
    ],
)
def test_quantities_in_base_units(text: str, value: float, unit: str) -> None:
    (found,) = quantities(text)
    assert (found.value, found.unit) == (pytest.approx(value), unit)


def test_list_numbers_are_no_quantities() -> None:
    assert [q.number for q in quantities("1. Light, 34 g\n2) Waterproof")] == [34]


def test_sentences_end_at_marks_but_not_at_decimal_points() -> None:
    assert sentences("It weighs 2.4 kg. Will you carry it? Good!\nYes") == [
        "It weighs 2.4 kg.",
        "Will you carry it?",
        "Good!",
        "Yes",
    ]


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), min_size=1, max_size=3))
def test_position_is_the_first_occurrence(haystack: list[str], needle: list[str]) -> None:
    assert position(haystack, needle) == "".join(haystack).find("".join(needle))


@given(st.text(max_size=80))
def test_any_text_can_be_read(text: str) -> None:
    assert all(quantity.value >= 0 for quantity in quantities(text))
    assert all(isinstance(word, str) and word for word in words(text))
    assert all(sentences(text))
