"""Silence for the libraries that read models: their bars and notices are not for Accord's users."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

_LOGGERS = ("transformers", "huggingface_hub", "peft")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """No progress bars, warnings or log lines of transformers, peft and the hub client inside the block.

    What was set before is restored. Errors are raised as ever, only chatter is lost.
    """
    import transformers.utils.logging as transformers_logging

    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        # Some bars (the one that reads GGUF files) have no switch; all of them write to sys.stderr.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            for name in _LOGGERS:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
