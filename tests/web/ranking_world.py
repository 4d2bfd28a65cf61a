"""A shop whose first question is a ranking of four answers."""

from __future__ import annotations

from pathlib import Path

from accord.records import Completion, Group, Prompt, Question, Sampling
from web.browser_world import RICH, Shop, build_shop, shop_questions

ASKED = "My watch shows the wrong time after a flight to Lisbon. What can I do?"
BEST = "Hold the crown for two seconds and choose *Time zone*. With the phone nearby it sets itself at once."
RANKED = (
    BEST,
    "Choose *Time zone* in the settings. Is your phone nearby? Then the watch can also set itself.",
    "Turn the watch off and on again. If that does not help, send it to us; a repair takes about two weeks.",
    "Lisbon is lovely in spring! Our watches are made for travellers like you.",
)


def ranking(asked: str, *texts: str, overlap: int = 3) -> Question:
    prompt = Prompt.of(asked)
    drawn = [
        Completion(prompt.id, text, policy_version=f"shop-ppo-{i % 2}", sampling=Sampling(seed=i), index=i)
        for i, text in enumerate(texts)
    ]
    return Question(Group(prompt, tuple(drawn)), "round 2", kind="ranking", overlap=overlap)


def build_ranked_shop(path: Path) -> Shop:
    arabic = ranking("هل الساعة مقاومة للماء؟", RICH[2][1], RICH[2][2], "لا.")
    nine = ranking("Which colours are there?", *(f"There are {n} colours." for n in range(9)))
    asked = [ranking(ASKED, *RANKED), arabic, nine, *shop_questions()[:3]]
    return build_shop(path, asked, judged=0)
