"""How long a rater waits: from the press of Enter until the next question is painted.

    python benchmarks/judging.py [JUDGEMENTS]

A headless Chromium answers questions by keyboard from a server on this machine, with a moment of
reading before each. The clock is the browser's: from the time stamp of the key to the frame after the one
that changed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from playwright.sync_api import sync_playwright

from accord.records import Prompt, Question
from web.browser_world import CHROMIUM, browsers, build_shop, question, shop_questions

READING = 400  # milliseconds before each answer; the next questions are fetched meanwhile
TARGET = 100.0  # milliseconds
CLOCK = """() => {
    window.waits = [];
    let pressed = 0;
    addEventListener("keydown", (event) => event.key === "Enter" && (pressed = event.timeStamp), true);
    const painted = new MessageChannel();
    painted.port1.onmessage = () => window.waits.push(performance.now() - pressed);
    new MutationObserver(() => requestAnimationFrame(() => painted.port2.postMessage("")))
        .observe(document.body, { attributes: true, attributeFilter: ["data-number"] });
}"""


def many_questions(n: int) -> list[Question]:
    found = shop_questions()
    made = []
    for i in range(n):
        group = found[i % len(found)].group
        prompt = Prompt.of(f"{group.prompt.messages[-1].content} (customer {i})")
        made.append(question(prompt, *(answer.text for answer in group.completions)))
    return made


def measure(n: int, folder: Path) -> list[float]:
    """Milliseconds of each of `n` judgements."""
    shop = build_shop(folder / "shop.sqlite", many_questions(n + 5), judged=0)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with browsers(chromium, shop, folder) as browse:
            page = browse("rater").judge()
            page.evaluate(CLOCK)
            for i in range(n):
                page.wait_for_timeout(READING)
                page.keyboard.press(str(1 + i % 7))
                page.keyboard.press("Enter")
                page.locator(f'body[data-number="{i + 2}"]').wait_for()
            page.wait_for_timeout(READING)
            waits: Sequence[float] = page.evaluate("window.waits")
        chromium.close()
    return list(waits)


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    if not CHROMIUM.exists():
        sys.exit(f"{CHROMIUM} is not there (on Debian: apt install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        waits = measure(n, Path(folder))
    p95 = quantiles(waits, n=20)[-1]
    print(f"From Enter to the next question on the screen, {len(waits)} times (target: {TARGET:.0f} ms)")
    print(f"  median {median(waits):.1f} ms   p95 {p95:.1f} ms   longest {max(waits):.1f} ms")


if __name__ == "__main__":
    main()
