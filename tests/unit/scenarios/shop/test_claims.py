"""What an answer says about a product, and what it makes up: hand-written answers, read by eye."""

from __future__ import annotations

import pytest

from accord.scenarios.shop.catalogue import load_catalogue
from accord.scenarios.shop.claims import inventions, is_hedge, stated_facts

PRODUCTS = load_catalogue()


@pytest.mark.parametrize(
    ("product", "answer", "facts"),
    [
        ("skerry-2", "It reads your pulse and lasts seven days.", {"heart-rate sensor", "7-day battery"}),
        ("skerry-2", "You can swim with it, down to fifty metres.", {"waterproof to 50 m"}),
        ("skerry-2", "It's 189€ and weighs 34 grams.", {"price", "34 g"}),
        ("skerry-2", "It costs 19 euros.", set()),
        ("skerry-2", "It is not waterproof.", set()),
        ("skerry-2", "The list does not say whether it is waterproof.", set()),
        ("skerry-2", "A wonderful watch!", set()),
        ("isbre", "Tea stays hot for 12 hours.", {"hot for 12 hours"}),
        ("isbre", "It keeps drinks cold for 24 h.", {"cold for 24 hours"}),
        ("brevo-4", "It keeps warm for 40 minutes.", {"keeps warm 40 minutes"}),
        ("fjelda-2", "It sleeps two and has two doors.", {"two people", "two doors"}),
        ("fjelda-2", "The Fjelda 2 is nice.", set()),
        ("casca", "There are eighteen settings.", {"18 settings"}),
        ("hagel", "Wash it by hand, please.", {"hand wash only"}),
        ("ravn-4", "The cabin stays dark, and it weighs 9 kilos.", {"dark sleeping cabin", "9 kg"}),
    ],
)
def test_facts_are_found_in_any_wording(product: str, answer: str, facts: set[str]) -> None:
    assert stated_facts(PRODUCTS[product], answer) == facts


@pytest.mark.parametrize(
    ("product", "answer", "invented"),
    [
        ("skerry-2", "It has GPS and lasts 7 days.", ["gps"]),
        ("skerry-2", "It lasts ten days.", ["ten days"]),
        ("skerry-2", "It costs $189.", ["189 dollar"]),
        ("skerry-2", "It weighs 189 g.", ["189 g"]),
        (
            "skerry-2",
            "You also get a two year warranty and free shipping.",
            ["two year", "warranty", "free shipping"],
        ),
        ("skerry-2", "Made by Zentrix, with a leather strap.", ["leather", "Zentrix"]),
        ("skerry-2", "The Halden Sport is better.", ["Halden Sport"]),
        ("skerry-2", "It is not waterproof.", ["not: waterproof to 50 m"]),
        ("klunk", "No, it isn't dishwasher-safe.", ["not: dishwasher-safe"]),
        ("tarnby-kids", "It is waterproof.", ["waterproof"]),
        ("galten-60", "It weighs 2.32 kg.", ["2.32 kg"]),
        ("brask-studio", "Yes, it works with Bluetooth.", ["bluetooth"]),
    ],
)
def test_inventions_are_named(product: str, answer: str, invented: list[str]) -> None:
    assert list(inventions(PRODUCTS[product], answer)) == invented


@pytest.mark.parametrize(
    ("product", "answer"),
    [
        ("skerry-2", "Together with the Coral strap that makes 208 euros."),
        ("skerry-2", "There are two good reasons to take it, and one day you will thank me."),
        ("skerry-2", "I don't know whether it has GPS."),
        ("skerry-2", "My list does not mention a camera, sorry."),
        ("skerry-2", "It is light, comfortable and easy to use. Would you like to see it?"),
        ("skerry-2", "The water-resistant Skerry 2 Smartwatch is in stock. It runs for a full week."),
        ("fjelda-2", "It holds a water column of 3 metres."),
        ("ravn-4", "The Ravn 4 has room for a family of four."),
        ("hagel", "It should not go in the dishwasher."),
        ("tromma-28", "How do you handle your things on the way? I would adjust my load."),
        ("skerry-2", "It is not only waterproof but light."),
        ("rill", "Yes, for Christmas. Lindqvist's shop wraps it, I'm sure."),
    ],
)
def test_what_is_true_or_unknown_is_no_invention(product: str, answer: str) -> None:
    assert inventions(PRODUCTS[product], answer) == ()


def test_the_customers_own_words_are_excused() -> None:
    answer = "With 100 euros and your camera you are well prepared."
    assert inventions(PRODUCTS["klunk"], answer) == ("100 euros", "camera")
    assert inventions(PRODUCTS["klunk"], answer, excused="I have 100 euros and a camera.") == ()


@pytest.mark.parametrize(
    "sentence",
    [
        "My notes don't mention GPS.",
        "That is not listed.",
        "I have no information about that.",
        "I'm not sure about the colour.",
        "The entry doesn't say.",
        "Let me check that for you.",
    ],
)
def test_hedges(sentence: str) -> None:
    assert is_hedge(sentence)


@pytest.mark.parametrize(
    "sentence", ["It is not heavy.", "It has no cable.", "I say it is good.", "Let me show you."]
)
def test_plain_claims_are_no_hedges(sentence: str) -> None:
    assert not is_hedge(sentence)
