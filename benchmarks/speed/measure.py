"""One measurement in a process of its own, printed as JSON.

python -m speed.measure ours|peer|profile TASK
python -m speed.measure machine DTYPE
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, replace

from accord.training.run import peak_gpu_gb, peak_rss_gb
from speed.task import Measured, Task


def measure(side: str, task: Task) -> Measured:
    function: Callable[[Task], Measured]
    if side == "ours":
        from speed.ours import OURS

        function = OURS[task.work]
    else:
        from speed.peers import PEERS

        function = PEERS[task.work]
    return replace(function(task), peak_gb=peak_gpu_gb() or peak_rss_gb())


def main() -> None:
    side, *rest = sys.argv[1:]
    with redirect_stdout(sys.stderr):  # trainers print
        if side == "machine":
            from speed.limits import measure_machine

            found = asdict(measure_machine(rest[0]))
        elif side == "profile":
            from speed.profiling import profile

            found = asdict(profile(Task.from_json(rest[0])))
        else:
            found = asdict(measure(side, Task.from_json(rest[0])))
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(found))


if __name__ == "__main__":
    main()
