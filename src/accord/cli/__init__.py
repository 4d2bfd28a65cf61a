"""The commands. Nothing heavy is imported until a command needs it.

Every stage takes its settings as `--config FILE.yaml`, as `--name VALUE` (nested: `--kl.coef 0.1`), or both;
flags win. Results go to stdout as JSON, progress to stderr. An error that is the user's to mend is one line
and exit status 2 (`--debug` shows the traceback); a run stopped by Ctrl-C ends with 130.
"""

from __future__ import annotations

from accord.cli import stages, tools  # noqa: F401  (they join the application, in the order of the help)
from accord.cli.app import app, print_json
from accord.cli.entry import main

__all__ = ["app", "main", "print_json"]
