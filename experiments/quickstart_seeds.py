"""The quickstart with three seeds, and the table for docs/results.md.

    python experiments/quickstart_seeds.py [--out runs/quickstart] [--seeds 0 1 2]

Resumable: a seed that is done is only read again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

COLUMNS = (
    "seed | minutes | peak GB | agreement (alpha) | RM accuracy | ceiling | share | longer wins | "
    "PPO win rate | "
    "best of 4 | KL (target) | reward | length | invented | ended"
)


def row(report: dict[str, Any]) -> str:
    """One seed's line of the table."""
    rm, policy, best = report["reward_model"], report["policy"], report["best_of_n"]
    cells = [
        str(report["seed"]),
        f"{report['wall_seconds'] / 60:.1f}",
        f"{report['peak_rss_gb']:.1f}",
        f"{report['agreement']['raw']:.2f} ({report['agreement']['alpha']:.2f})",
        f"{rm['accuracy']:.3f} [{rm['low']:.2f}, {rm['high']:.2f}]",
        f"{rm['ceiling']:.3f}",
        f"{rm['accuracy'] / rm['ceiling']:.2f}",
        f"{rm['longer_wins']:.2f}",
        f"{policy['win_rate_vs_sft']:.3f} [{policy['low']:.2f}, {policy['high']:.2f}]",
        f"{best['win_rate_vs_sft']:.3f} [{best['low']:.2f}, {best['high']:.2f}]",
        f"{policy['kl_last_half']:.1f} ({policy['kl_target']:.0f})",
        f"{policy['reward_before']:.2f} → {policy['reward_after']:.2f}",
        f"{policy['length_before']:.0f} → {policy['length_after']:.0f}",
        f"{policy['invented_before']:.2f} → {policy['invented_after']:.2f}",
        f"{policy['ended_after']:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    lines = [f"| {COLUMNS} |", "|" + "---|" * len(COLUMNS.split("|"))]
    for seed in arguments.seeds:
        folder = arguments.out / f"seed-{seed}"
        command = [
            "-c",
            "from accord.cli import main; main()",
            "quickstart",
            "--out",
            str(folder),
            "--seed",
            str(seed),
        ]
        subprocess.run([sys.executable, *command], check=True)
        lines.append(row(json.loads((folder / "report.json").read_text())))
    table = "\n".join(lines)
    print(table)
    (arguments.out / "table.md").write_text(table + "\n")


if __name__ == "__main__":
    main()
