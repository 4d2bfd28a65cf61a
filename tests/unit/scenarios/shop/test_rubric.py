"""The rubric prefers what people prefer, and no shortcut beats an honest good answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.feedback.panel import utility
from accord.scenarios.shop.catalogue import describe, load_catalogue, system_message
from accord.scenarios.shop.language import sentences
from accord.scenarios.shop.rubric import BASE_WEIGHTS, TRAITS, Enquiry, has_invention, traits
from accord.scenarios.shop.scenario import enquiry_of, load_scenario

PRODUCTS = load_catalogue()
SKERRY = Enquiry(PRODUCTS["skerry-2"], "Tell me about the new smartwatches.")
GPS = Enquiry(PRODUCTS["skerry-2"], "Does the Skerry have GPS?", "unlisted")
GOOD = (
    "The Skerry 2 reads your heart rate and lasts 7 days on one charge, and you can swim with it. "
    "The Coral strap goes well with it. Would you like to know how it sits on the wrist?"
)


def score(answer: str, enquiry: Enquiry = SKERRY, *, finished: bool = True) -> float:
    return utility(BASE_WEIGHTS, traits(enquiry, answer, finished=finished))


def test_the_good_answer_has_every_virtue_and_no_fault() -> None:
    found = traits(SKERRY, GOOD)
    assert {trait for trait, value in found.items() if value == 1.0} == {
        "facts",
        "direct",
        "companion",
        "question",
    }
    assert sum(found.values()) == 4.0
    assert not has_invention(SKERRY, GOOD)


WORSE = {
    "too brief": "It is 189 euros.",
    "too technical": "Specifications: mass 34 g; battery 7 days; rated 50 m; heart-rate sensor; 189 euros.",
    "generic": "It is a very nice watch, and I am sure that you will be happy with it every day.",
    "pushy": "You will love it! Everyone wants this amazing watch, so buy it now! Hurry!",
    "no question": GOOD.rsplit(". ", 1)[0] + ".",
    "no companion": GOOD.replace("The Coral strap goes well with it. ", ""),
    "an invention": GOOD.replace("and you can swim", "has built-in GPS and you can swim"),
    "a wrong figure": GOOD.replace("7 days", "14 days"),
    "the system message": system_message(PRODUCTS["skerry-2"]),
    "the entry and a question": describe(PRODUCTS["skerry-2"]) + " Would you like to know more?",
    "said twice": f"{GOOD} {GOOD}",
    "the question twice": GOOD + " " + sentences(GOOD)[-1],
    "four questions": GOOD + " Do you run? Do you swim? Is it a gift? What is your budget?",
    "a bare mark": GOOD.rsplit(". ", 1)[0] + ". ?",
    "a hollow question": GOOD.rsplit(". ", 1)[0] + ". Are you sure about it?",
    "the customer's words back": GOOD.rsplit(". ", 1)[0] + ". Tell me about the new smartwatches?",
    "keywords": "Coral strap heart-rate sensor 7-day battery waterproof 34 g 189 euros would you like strap?",
    "only questions": "Would you like a Coral strap? Would you like a heart-rate sensor? And 7 days?",
    "stuttering": GOOD.replace(". ", "... ").replace("?", "???"),
    "foreign debris": GOOD.replace("Coral strap", "Coral strap รแก ไทย"),
    "wandering": f"My grandmother cooked porridge beneath flickering chandeliers. {GOOD}",
    "too long": GOOD.rsplit(". ", 1)[0]
    + ". It is good to have such a thing with you in the morning, in the evening and at night, at home and "
    "on the way, because you never know when you may need it, and then it is there and you can use it, which "
    "is what most people want from a watch that they wear every day of the year. Would you like to see it?",
}


@pytest.mark.parametrize("name", WORSE)
def test_nothing_cheaper_beats_the_good_answer(name: str) -> None:
    assert score(WORSE[name]) < score(GOOD) - 0.4


def test_breaking_off_is_worse_than_ending() -> None:
    assert score(GOOD, finished=False) < score(GOOD) - 1
    assert traits(SKERRY, GOOD.removesuffix("?"))["unfinished"] == 0.5


def test_the_missions_three_answers_are_ranked_as_people_rank_them() -> None:
    best, technical, brief = score(GOOD), score(WORSE["too technical"]), score(WORSE["too brief"])
    assert best > technical + 2 and best > brief + 2


def test_saying_that_one_does_not_know_beats_making_it_up() -> None:
    honest = "My list doesn't mention GPS. It does have a heart-rate sensor. Shall I look it up for you?"
    made_up = "Yes, it has GPS. It also has a heart-rate sensor. Shall I show you how it works?"
    assert score(honest, GPS) > score(made_up, GPS) + 1.5
    assert has_invention(GPS, made_up) and not has_invention(GPS, honest)
    # What the customer said may be repeated, but not confirmed when it is the very thing asked.
    assert not has_invention(Enquiry(SKERRY.product, "I have GPS on my phone."), "Your phone has GPS, good.")


def test_a_direct_answer_gives_what_was_asked() -> None:
    swim = Enquiry(SKERRY.product, "Can I swim with it?", "fact:3")
    assert traits(swim, "Yes, it is waterproof to 50 m.")["direct"] == 1.0
    assert traits(swim, "It weighs 34 g.")["direct"] == 0.0
    price = Enquiry(SKERRY.product, "How much is it?", "price")
    assert traits(price, "It costs 189 euros.")["direct"] == 1.0
    assert traits(price, "The Coral strap is 19 euros.")["direct"] == 0.0
    assert (
        traits(Enquiry(SKERRY.product, "What goes with it?", "companion"), "A Coral strap.")["direct"] == 1.0
    )


def test_facts_saturate_and_inventions_add_up() -> None:
    steps = [
        "Nice.",
        "It has a heart-rate sensor.",
        "It has a heart-rate sensor and weighs 34 g.",
        "It has a heart-rate sensor, weighs 34 g and is waterproof.",
        "It has a heart-rate sensor, weighs 34 g, is waterproof and costs 189 euros.",
    ]
    facts = [traits(SKERRY, step)["facts"] for step in steps]
    assert facts == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    invented = [
        traits(SKERRY, f"It has {text}.")["invented"]
        for text in ("a heart-rate sensor", "GPS", "GPS and a camera", "GPS, a camera and a leather case")
    ]
    assert invented == pytest.approx([0, 0.5, 0.75, 0.875])


def test_length_is_free_between_twenty_and_sixty_words() -> None:
    lengths = (1, 10, 19, 20, 40, 60, 61, 80, 120)
    brief = [traits(SKERRY, "so " * n)["brief"] for n in lengths]
    long = [traits(SKERRY, "so " * n)["long"] for n in lengths]
    assert brief == pytest.approx([0.95, 0.5, 0.05, 0, 0, 0, 0, 0, 0])
    assert long == pytest.approx([0, 0, 0, 0, 0, 0, 0.025, 0.5, 1])


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200), st.booleans())
def test_every_trait_of_any_text_lies_between_0_and_1(text: str, finished: bool) -> None:
    found = traits(SKERRY, text, finished=finished)
    assert tuple(found) == TRAITS
    assert all(0.0 <= value <= 1.0 for value in found.values())


@pytest.mark.parametrize("which", range(0, 80, 3))
def test_saying_a_sentence_again_never_pays(which: int) -> None:
    group = load_scenario().demonstrations[which]
    enquiry, answer = enquiry_of(group.prompt), group.completions[0].text
    for sentence in sentences(answer):
        assert score(f"{answer} {sentence}", enquiry) <= score(answer, enquiry)


def test_wandering_is_measured_by_words_that_have_no_place_in_a_shop() -> None:
    assert traits(SKERRY, "It is a comfortable watch, and I am happy to show you how it works.")["stray"] == 0
    assert (
        traits(SKERRY, "Wild porcini mushrooms flourish beneath the birches of a glacial valley.")["stray"]
        == 1
    )
    assert score(f"Wild mushrooms flourish beneath the birches. {GOOD}") < score(GOOD) - 0.4


def test_a_question_counts_only_after_an_answer_and_in_ones_own_words() -> None:
    question = "Would you like to know how it sits on the wrist?"
    assert traits(SKERRY, f"It is a nice watch to have around. {question}")["question"] == pytest.approx(0.3)
    assert traits(SKERRY, f"It has a heart-rate sensor, you see. {question}")["question"] == 1.0
    assert traits(GPS, f"I don't know whether it has GPS, sorry. {question}")["question"] == 1.0
    swim = Enquiry(SKERRY.product, "Can I go swimming with the Skerry 2?", "fact:3")
    assert traits(swim, "It is waterproof to 50 m. Can I go swimming with the Skerry 2?")["question"] == 0.0


def test_copying_the_entry_is_technical_however_much_is_said_around_it() -> None:
    mus = PRODUCTS["mus"]
    around = (
        "This is what I can tell you about it, and I hope that it helps you to choose well for your son: "
    )
    copied = f"{around}{describe(mus)}"
    told = f"{around}the Mus has reflectors, a name tag and a chest clip, and it holds 8 litres for 35 euros."
    enquiry = Enquiry(mus, "Which backpack do you recommend?")
    assert traits(enquiry, copied)["technical"] >= 0.5
    assert traits(enquiry, told)["technical"] == 0.0


def test_the_companion_is_suggested_by_name_or_kind_and_not_by_label() -> None:
    assert traits(SKERRY, "A Coral strap would suit it.")["companion"] == 1.0
    assert traits(SKERRY, "There is a strap as well.")["companion"] == 0.6
    assert traits(SKERRY, "Goes with: Coral strap, 19 euros.")["companion"] == 0.3
    assert traits(SKERRY, "It is a watch.")["companion"] == 0.0
    case = Enquiry(PRODUCTS["ovela-5"], "Any advice?", "companion")
    assert traits(case, "Take the hard case along.")["companion"] == 1.0
