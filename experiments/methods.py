"""Every way to improve the policy, from one quickstart's SFT model, judgements and reward model.

    python experiments/methods.py [--base runs/quickstart/seed-0] [--out runs/methods] [--methods dpo grpo]

All see about as many answer tokens in training: 448 answers, sampled by the policy itself or taken from the
judged ones. Each is compared with the SFT policy by the same fresh raters on the held-out products. One
method, one process, so that its peak memory is its own. Resumable: what is done is only read again, and what
was interrupted goes on. Writes table.md, methods.json and methods.svg into the output folder.

`trained on` counts answers and their tokens; a token counts once however often an answer was judged or passed
over. Tokens per second divide them by the time of the steps: with sampling and scoring, which belong to every
step of the on-policy methods, and without the reference's one pass and the evaluation. KTO passes over
twice as many answers as it trains on, for its baseline. Minutes are all of the training.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import yaml
from rich.console import Console

import accord
from accord.loop import quickstart_file
from accord.stages.common import open_bench, order
from accord.stages.pairs import read_pairs, split_by_prompt
from accord.training.run import peak_rss_gb

LORA = {"r": 16, "alpha": 32, "layers": 0.5}
ANSWERS = 448  # an epoch of the offline methods has 150 prompts with six answers each
OFFLINE = {
    "epochs": ANSWERS / (150 * 6),
    "batch_size": 2,
    "held_out": 0.0,
    "lora": LORA,
}
KL = {"mode": "adaptive", "coef": 0.1, "target": 6.0, "horizon": 64, "clip": 0.3, "ramp_share": 0.5}
ONLINE = {
    "iterations": 14,
    "temperature": 0.7,
    "max_new_tokens": 64,
    "lora": LORA,
}
ONLINE_OPTIM = {"learning_rate": 4e-4, "schedule": "constant", "adam_epsilon": 1e-5}


def offline(learning_rate: float, **own: Any) -> dict[str, Any]:
    return {**OFFLINE, "optim": {"learning_rate": learning_rate, "warmup_share": 0.1}, **own}


# method -> its settings, beside what all have
METHODS: Mapping[str, dict[str, Any]] = {
    "dpo": offline(3e-4),
    "grpo": {
        **ONLINE,
        "prompts_per_iteration": 4,
        "k": 8,
        "epochs": 1,
        "minibatches": 2,
        "use_kl_in_reward": True,
        "kl": KL,
        "optim": ONLINE_OPTIM,
    },
    "kto": offline(1e-4),  # three times as much drives rejected answers down until answers do not end
    "ipo": offline(3e-4, beta=0.05),
    "rloo": {**ONLINE, "k": 4, "minibatches": 2, "kl": KL, "optim": ONLINE_OPTIM},
    "simpo": offline(5e-5),  # six times as much, and answers do not end any more
    # With the usual 0.1 the term for the chosen answers rules, and those are the policy's own: it only
    # got terser.
    "orpo": offline(3e-4, beta=1.0),
    "online-dpo": {**ONLINE, "k": 4, "optim": {"learning_rate": 3e-4, "schedule": "linear"}},
    "reinforce++": {**ONLINE, "k": 4, "minibatches": 2, "kl": KL, "optim": ONLINE_OPTIM},
}
HEADER = (
    "| method | wins against SFT | mean KL | tokens an answer | ends | reward | invented "
    "| trained on: answers | tokens | tokens/s | minutes | GB |\n" + 12 * "|---" + "|"
)


def improve(method: str, base: Path, out: Path, seed: int) -> None:
    """Train one method and evaluate it; writes `out/done.json`."""
    began = time.perf_counter()
    online = "iterations" in METHODS[method]
    data = {"prompts": base / "data/train_prompts.jsonl", "reward_model": base / "round-1/reward/model"}
    files = data if online else {"data": f"{base / 'ledger.sqlite'}#round-1"}
    train = getattr(accord, method.replace("-", "_").replace("++", "_plus_plus"))
    settings = {**METHODS[method], **{k: str(v) for k, v in files.items()}}
    model = str(base / "sft/model")
    trained = train(model=model, out=str(out / "train"), seed=seed, **settings)
    done = {"minutes": (time.perf_counter() - began) / 60, "peak_rss_gb": peak_rss_gb()}
    checked = evaluate(trained["model"], base, out / "eval", seed)
    (out / "done.json").write_text(json.dumps({"method": method, **done, **checked}, indent=1))


def evaluate(model: str, base: Path, out: Path, seed: int) -> dict[str, Any]:
    return dict(
        accord.evaluate(
            model=model,
            baseline=str(base / "sft/model"),
            prompts=str(base / "data/heldout_prompts.jsonl"),
            reward_model=str(base / "round-1/reward/model"),
            best_of=1,
            temperature=0.7,
            max_new_tokens=64,
            seed=seed,
            out=str(out),
        )
    )


def effort(method: str, base: Path, train: Path, seed: int) -> dict[str, float]:
    """How many answers and tokens a finished run trained on, and how many tokens in a second of its steps."""
    rows = [json.loads(text) for text in (train / "metrics.jsonl").read_text().splitlines()]
    if "completions/mean_length" in rows[0]:
        settings = METHODS.get(method) or yaml.safe_load(quickstart_file().read_text())[method]
        each = settings.get("prompts_per_iteration", 8) * settings["k"]
        answers, tokens = each * len(rows), sum(each * row["completions/mean_length"] for row in rows)
    else:
        lengths = judged_lengths(base, seed)
        size = OFFLINE["batch_size"]
        seen = [i for step in range(len(rows)) for i in order(len(lengths), size, step, seed)]
        answers, tokens = sum(len(lengths[i]) for i in seen), sum(sum(lengths[i]) for i in seen)
    seconds = sum(row["seconds"] for row in rows)
    return {"answers": answers, "trained_tokens": tokens, "tokens_per_second": tokens / seconds}


@cache
def judged_lengths(base: Path, seed: int) -> list[list[int]]:
    """The tokens of each judged answer, prompt by prompt as the offline methods have them."""
    renderer = open_bench(str(base / "sft/model"), "float32").renderer
    judged = read_pairs(f"{base / 'ledger.sqlite'}#round-1", False, Console(quiet=True))
    train, _ = split_by_prompt([(row, renderer.group(row.group)) for row in judged], 0.0, seed)
    return [[len(ids) for ids in encoded.completion_ids] for _, encoded in train]


def quickstart_rows(base: Path) -> list[dict[str, Any]]:
    """PPO and best of 4, which the quickstart itself has done."""
    report = json.loads((base / "report.json").read_text())
    ppo = {"method": "ppo", "policy": report["policy"], "minutes": report["seconds"]["round-1/ppo"] / 60}
    ppo |= effort("ppo", base, base / "round-1/ppo", 0)
    best = {"method": "best of 4", "policy": report["best_of_n"]}
    return [{**ppo, "peak_rss_gb": report["peak_rss_gb"]}, best]


def line(row: Mapping[str, Any]) -> str:
    policy = row["policy"]

    def cell(key: str, digits: int) -> str:
        value = policy.get(key, row.get(key))
        return "" if value is None else f"{value:.{digits}f}"

    wins = f"{policy['win_rate_vs_sft']:.3f} [{policy['low']:.2f}, {policy['high']:.2f}]"
    kinds = [("kl", 1), ("length_after", 0), ("ended_after", 2), ("reward_after", 2), ("invented_after", 2)]
    cells = [row["method"], wins, *(cell(*kind) for kind in kinds)]
    spent = [
        ("answers", 0),
        ("trained_tokens", 0),
        ("tokens_per_second", 0),
        ("minutes", 1),
        ("peak_rss_gb", 1),
    ]
    return "| " + " | ".join([*cells, *(cell(*kind) for kind in spent)]) + " |"


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Win rate against KL: up and to the left is better."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for row in rows:
        policy = row["policy"]
        if "kl" not in policy:
            continue
        x, y = policy["kl"], policy["win_rate_vs_sft"]
        axes.errorbar(x, y, [[y - policy["low"]], [policy["high"] - y]], fmt="o", capsize=3)
        axes.annotate(row["method"], (x, y), xytext=(6, 4), textcoords="offset points")
    axes.axhline(0.5, color="grey", linewidth=0.8)
    axes.set(xlabel="KL from the SFT policy, nats an answer", ylabel="win rate against SFT, 95 % interval")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, default=Path("runs/quickstart/seed-0"))
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not (arguments.base / "report.json").exists():
        command = ["-c", "from accord.cli import main; main()", "quickstart", "--out", str(arguments.base)]
        subprocess.run([sys.executable, *command], check=True)
    if arguments.one:
        improve(arguments.one, arguments.base, arguments.out / arguments.one, arguments.seed)
        return
    for method in arguments.methods:
        if not (arguments.out / method / "done.json").exists():
            own = ["--base", arguments.base, "--out", arguments.out, "--seed", arguments.seed]
            subprocess.run([sys.executable, __file__, "--one", method, *map(str, own)], check=True)
    rows = quickstart_rows(arguments.base)
    for method in METHODS:
        if (done := arguments.out / method / "done.json").exists():
            spent = effort(method, arguments.base, arguments.out / method / "train", arguments.seed)
            rows.append({**json.loads(done.read_text()), **spent})
    table = "\n".join(
        [HEADER, *(line(r) for r in sorted(rows, key=lambda r: -r["policy"]["win_rate_vs_sft"]))]
    )
    print(table)
    (arguments.out / "table.md").write_text(table + "\n")
    (arguments.out / "methods.json").write_text(json.dumps(rows, indent=1))
    plot(rows, arguments.out / "methods.svg")


if __name__ == "__main__":
    main()
