"""The shop's data agree with each other, and the clerks' styles are told apart as people would."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from accord.errors import DataError
from accord.feedback.panel import judgement_rng, make_panel, utility
from accord.records import Completion, Prompt
from accord.scenarios.shop import load_scenario
from accord.scenarios.shop.catalogue import describe, load_catalogue, system_message
from accord.scenarios.shop.claims import inventions, stated_facts
from accord.scenarios.shop.language import quantities, raw_words, words
from accord.scenarios.shop.rubric import ASKS, BASE_WEIGHTS, TRAITS
from accord.scenarios.shop.scenario import enquiry_of, read_demonstrations, read_prompts

SCENARIO = load_scenario()
PRODUCTS = load_catalogue()
DEMOS = list(zip(read_demonstrations(), SCENARIO.demonstrations, strict=True))
STYLES = [row["style"] for row, _ in DEMOS]
DEMO_TRAITS = [SCENARIO.traits(group.prompt, group.completions[0]) for _, group in DEMOS]
UTILITIES = np.array([utility(BASE_WEIGHTS, traits) for traits in DEMO_TRAITS])
IDEAL = np.array([style == "ideal" for style in STYLES])


def test_forty_products_in_ten_categories_each_in_both_splits() -> None:
    assert len(SCENARIO.products) == 40
    by_category = {
        category: Counter(p.split for p in SCENARIO.products if p.category == category)
        for category in {p.category for p in SCENARIO.products}
    }
    assert len(by_category) == 10
    assert all(splits == Counter(train=3, heldout=1) for splits in by_category.values())


def test_products_can_be_told_apart() -> None:
    for field in ("id", "name"):
        assert len({getattr(p, field) for p in SCENARIO.products}) == 40
    assert len({p.goes_with.name for p in SCENARIO.products}) == 40
    for product in SCENARIO.products:
        texts = [fact.text for fact in product.facts]
        assert 4 <= len(texts) == len(set(texts)) <= 5
        figures = [(q.value, q.unit) for text in texts for q in quantities(text) if q.unit]
        assert len(figures) == len(set(figures)), f"{product.id}: two facts with one figure"
        assert product.goes_with.price != product.price


def test_the_system_message_is_short_and_holds_everything() -> None:
    for product in SCENARIO.products:
        message = system_message(product)
        assert len(message) <= 200 and len(raw_words(message)) <= 42  # at most 65 SmolLM2 tokens
        for part in (
            product.name,
            str(product.price),
            product.goes_with.name,
            *(f.text for f in product.facts),
        ):
            assert part in message
        assert inventions(product, message) == ()
        assert stated_facts(product, message) == {"price", *(f.text for f in product.facts)}
    pair = SCENARIO.products[:2]
    assert all(describe(p) in system_message(*pair) for p in pair)


def test_every_other_wording_states_its_fact() -> None:
    for product in SCENARIO.products:
        for fact in product.facts:
            for wording in (fact.text, *fact.also):
                assert fact.text in stated_facts(product, f"You see, {wording}."), (product.id, wording)


def test_prompts_belong_to_their_products() -> None:
    rows = read_prompts()
    assert len(rows) == len({row["id"] for row in rows}) == 200
    assert Counter(row["product"] for row in rows) == dict.fromkeys(PRODUCTS, 5)
    assert len({row["text"] for row in rows}) >= 198
    for row in rows:
        assert ASKS.fullmatch(row["asks"])
        if row["asks"].startswith("fact:"):
            assert int(row["asks"][5:]) <= len(PRODUCTS[row["product"]].facts)
    assert {"general", "price", "companion", "unlisted"} < {row["asks"] for row in rows}


def test_splits_are_disjoint() -> None:
    train, heldout = SCENARIO.train_prompts, SCENARIO.heldout_prompts
    assert (len(train), len(heldout)) == (150, 50)
    assert not {p.id for p in train} & {p.id for p in heldout}
    assert not {p.tags[0] for p in train} & {p.tags[0] for p in heldout}
    assert {g.prompt.id for g in SCENARIO.demonstrations} < {p.id for p in train}


def test_prompts_carry_the_products_entry() -> None:
    for prompt in SCENARIO.train_prompts + SCENARIO.heldout_prompts:
        system, user = prompt.messages
        assert (system.role, user.role, prompt.source) == ("system", "user", "shop")
        assert describe(PRODUCTS[prompt.tags[0]]) in system.content
        assert enquiry_of(prompt).text == user.content


def test_demonstrations_are_varied_true_and_finished() -> None:
    assert len(DEMOS) == 80
    counts = Counter(STYLES)
    assert 25 <= counts["ideal"] <= 30 and counts["brief"] == counts["technical"] == 16
    assert len({row["prompt"] for row, _ in DEMOS}) == 80
    assert len({group.prompt.tags[0] for _, group in DEMOS}) == 30
    for (row, _), traits in zip(DEMOS, DEMO_TRAITS, strict=True):
        for trait in ("invented", "unfinished", "broken", "repetition", "long", "stray"):
            assert traits[trait] == 0, (row["prompt"], trait)
        assert len(raw_words(row["text"])) <= 48
    openings = Counter(tuple(words(row["text"])[:3]) for row, _ in DEMOS)
    closings = Counter(row["text"].split(". ")[-1] for row, _ in DEMOS if row["style"] == "ideal")
    assert max(openings.values()) <= 3 and max(closings.values()) == 1


def test_ideal_demonstrations_have_all_that_is_asked_of_them() -> None:
    for (row, _), traits in zip(DEMOS, DEMO_TRAITS, strict=True):
        if row["style"] == "ideal":
            good = {trait: traits[trait] for trait in ("companion", "question", "direct")}
            assert good == dict.fromkeys(good, 1.0), row["prompt"]
            assert traits["facts"] >= 0.66 and traits["technical"] == traits["pushy"] == 0, row["prompt"]


def test_ideal_demonstrations_win() -> None:
    assert (
        UTILITIES[IDEAL].mean()
        > max(UTILITIES[np.array(STYLES) == s].mean() for s in set(STYLES) - {"ideal"}) + 2
    )
    assert (UTILITIES[IDEAL][:, None] > UTILITIES[~IDEAL]).mean() >= 0.9


def test_two_raters_agree_as_often_as_people_do() -> None:
    panel = make_panel(6, BASE_WEIGHTS, seed=1)
    agree = []
    pairs = [(i, j) for i, j in itertools.combinations(range(80), 2) if STYLES[i] != STYLES[j]]
    rng = np.random.default_rng(2)
    for i, j in rng.permutation(pairs)[:900]:
        one, two = (panel[k] for k in rng.choice(6, 2, replace=False))
        a, b = (
            rater.judge(DEMO_TRAITS[i], DEMO_TRAITS[j], judgement_rng(rater.name, f"{i}/{j}"))[0]
            for rater in (one, two)
        )
        if a and b:
            agree.append(a * b > 0)
    assert 0.75 <= np.mean(agree) <= 0.85


def test_a_prompt_from_elsewhere_is_refused() -> None:
    with pytest.raises(DataError, match="not one of the shop's"):
        SCENARIO.traits(Prompt.of("Hello"), Completion("x", "Hi."))
    with pytest.raises(DataError, match="not one of the shop's"):
        SCENARIO.traits(Prompt.of("Hello", source="shop", tags=("toaster",)), Completion("x", "Hi."))


def test_a_cut_off_completion_is_unfinished() -> None:
    prompt = SCENARIO.train_prompts[0]
    cut = SCENARIO.traits(
        prompt, Completion(prompt.id, "It has a heart-rate sensor.", finish_reason="length")
    )
    whole = SCENARIO.traits(prompt, Completion(prompt.id, "It has a heart-rate sensor."))
    assert (cut["unfinished"], whole["unfinished"]) == (1.0, 0.0)
    assert tuple(cut) == TRAITS


def test_loading_needs_no_torch() -> None:
    code = "import sys, accord.scenarios.shop, accord.feedback.panel; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
