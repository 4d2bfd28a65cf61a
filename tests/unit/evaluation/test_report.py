"""The report: whole, self-contained, and safe whatever a model wrote."""

from __future__ import annotations

import copy
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from accord.evaluation.report import by_change, render, spread, visible, write_report

TRAITS = {"facts": 0.4, "question": 0.2}
REPORT: dict[str, Any] = {
    "accord": "0.1.0",
    "model": "tiny",
    "scenario": "shop",
    "seed": 0,
    "rounds": 1,
    "finished_at": "2026-01-01T00:00:00+00:00",
    "simulated_raters": True,
    "accepted": True,
    "judgements": 812,
    "raters": ["sim-0-01", "sim-0-02"],
    "agreement": {"raw": 0.67, "alpha": 0.61, "alpha_undefined_because": ""},
    "data": {"train_prompts": 150, "heldout_prompts": 50, "demonstrations": 80},
    "reward_model": {
        "accuracy": 0.74,
        "low": 0.7,
        "high": 0.78,
        "n": 400,
        "ceiling": 0.82,
        "longer_wins": 0.6,
        "first_wins": 0.51,
        "card": {"calibration": {"bins": [{"predicted": 0.6, "observed": 0.58, "n": 40}]}},
    },
    "policy": {
        "win_rate_vs_sft": 0.71,
        "low": 0.62,
        "high": 0.79,
        "n": 250,
        "kl": 5.2,
        "kl_target": 6.0,
        **{
            f"{k}_{w}": 0.5
            for k in ("reward", "length", "invented", "repetition")
            for w in ("before", "after")
        },
        **{f"{k}_{w}": 1.0 for k in ("ended", "distinct") for w in ("before", "after")},
        "traits_before": TRAITS,
        "traits_after": TRAITS,
    },
    "best_of_n": {"n_samples": 4, "win_rate_vs_sft": 0.66, "low": 0.57, "high": 0.74},
    "policy_vs_best_of_n": {"value": 0.55, "low": 0.46, "high": 0.64},
    "seconds": {"sft": 100.0, "round-1/ppo": 200.0},
    "wall_seconds": 800.0,
    "peak_rss_gb": 3.2,
    "machine": {"system": "Linux", "cpu": "x86_64"},
}
CURVES = {
    "sft": [{"step": i, "loss": 3 - i / 10} for i in range(1, 9)],
    "round-1/reward": [{"step": i, "loss": 0.6, "rewards/accuracies": 0.7} for i in range(1, 9)],
    "round-1/ppo": [{"step": i, "objective/scores": i / 10, "objective/kl": i / 2} for i in range(1, 9)],
}
HOSTILE = [
    "<script>alert(1)</script>",
    "</p><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "{{ 7 * 7 }} {% raw %}",
    "![x](https://evil.example/p.png)",
    "javascript:alert(1)",
    "</script></style></details>",
]


def transcript(text: str = "Hello.", change: float = 1.0) -> dict[str, Any]:
    return {
        "messages": [{"role": "system", "content": "In stock: a lamp."}, {"role": "user", "content": text}],
        "before": text,
        "after": text,
        "reward_before": 0.0,
        "reward_after": change,
        "finished_before": True,
        "finished_after": False,
    }


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(page)
    return parser.found


def test_both_files_are_written_and_numbers_survive(tmp_path: Path) -> None:
    report = {**REPORT, "odd": math.nan, "list": [math.inf, 1.5]}
    write_report(report, CURVES, [transcript()], tmp_path)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["policy"] == REPORT["policy"]
    assert found["odd"] is None
    assert found["list"] == [None, 1.5]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]
    page = (tmp_path / "report.html").read_text()
    for text in (
        "71 %",
        "62 % to 79 %",
        "The raters were simulated",
        "812 judgements",
        "best of 4",
        "target",
    ):
        assert text in page, text


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs() -> None:
    page = render(REPORT, CURVES, [transcript()])
    for tag, attributes in tags(page):
        assert tag not in ("script", "link", "iframe", "img", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "action", "data"):
                assert (value or "").startswith("#"), (tag, name, value)
    urls = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert all(url.startswith("http://www.w3.org/") for url in urls), urls  # the names of SVG's namespaces
    assert "default-src 'none'" in page


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_model_wrote_stays_text(text: str) -> None:
    calm = [tag for tag, _ in tags(render(REPORT, CURVES, [transcript()]))]
    page = render(REPORT, CURVES, [transcript(text)])
    assert [tag for tag, _ in tags(page)] == calm
    assert ">49 " not in page  # a template inside the text is not run


def test_invisible_characters_are_shown() -> None:
    assert visible("a\u202eb\u200bc\x1b[31m\x00\n") == "a⟨U+202E⟩b⟨U+200B⟩c⟨U+001B⟩[31m⟨U+0000⟩\n"


def test_a_line_of_a_megabyte_is_cut_and_said() -> None:
    page = render(REPORT, CURVES, [transcript("x" * 1_000_000)])
    assert "996000 more characters" in page
    assert len(page) < 400_000


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"best_of_n": None, "policy_vs_best_of_n": None}, "No best-of-n baseline was run"),
        ({"reward_model": None}, "No reward model was fitted"),
        ({"policy": None}, "No evaluation was run"),
        (
            {"agreement": {"raw": 1.0, "alpha": None, "alpha_undefined_because": "all values are equal"}},
            "undefined: all values are equal",
        ),
    ],
)
def test_a_missing_piece_becomes_a_sentence(change: dict[str, Any], sentence: str) -> None:
    assert sentence in render({**REPORT, **change}, CURVES, [transcript()])


def test_an_unknown_ceiling_is_said() -> None:
    report = copy.deepcopy(REPORT)
    report["reward_model"]["ceiling"] = None
    assert "its ceiling is not known" in render(report, CURVES, [transcript()])


def test_no_curves_and_no_transcripts() -> None:
    page = render(REPORT, {}, [])
    assert "There are no learning curves" in page
    assert "There are no transcripts" in page


def test_a_rejected_policy_is_not_praised() -> None:
    page = render({**REPORT, "accepted": False}, CURVES, [transcript()])
    assert "the gate kept the old policy" in page
    assert "accepted the new policy" not in page


def test_people_are_not_called_simulated() -> None:
    people: dict[str, Any] = {**REPORT, "simulated_raters": False}
    assert "People judged, but simulated raters compared." in render(people, CURVES, [transcript()])
    people["policy"] = {**REPORT["policy"], "compared_by": "people", "evaluators": ["eve", "fay"]}
    assert "simulated" not in render(people, CURVES, [transcript()]).lower()


def test_one_rater_agrees_with_nobody() -> None:
    undefined = {"raw": None, "alpha": None, "alpha_undefined_because": "there is one rater"}
    page = render({**REPORT, "raters": ["me"], "agreement": undefined}, CURVES, [transcript()])
    assert "by 1 simulated rater." in page and "how far they agree is not known" in page
    assert "one rater" not in page and "in – of cases" not in page
    assert "how far they agree is not known" not in render(REPORT, CURVES, [transcript()])


def test_the_best_and_the_worst_are_always_shown() -> None:
    many = [transcript(str(i), change=float((7 * i) % 41)) for i in range(41)]
    shown = [t["reward_after"] for t in spread(by_change(many), 12)]
    assert shown[0] == 40
    assert shown[-1] == 0
    assert shown == sorted(shown, reverse=True)
    assert len(set(shown)) == 12
