"""Every error that Accord raises on purpose.

The command line prints the message alone and exits with status 2; `--debug` shows the traceback. A
message says what was wrong, where (file, line, key), and what to do about it.
"""

from __future__ import annotations


class AccordError(Exception):
    """Root of all errors that are the user's to mend."""


class ConfigError(AccordError):
    """A setting is unknown, missing, of the wrong type or out of range."""


class DataError(AccordError):
    """A data file is missing, unreadable, or holds rows that cannot be used."""


class ModelError(AccordError):
    """A model cannot be found, fetched, read, or does not fit its use."""


class CheckpointError(AccordError):
    """A checkpoint is incomplete, corrupted, or belongs to another run."""


class LedgerError(AccordError):
    """The feedback ledger is missing, of another version, or would be violated by a write."""


class NumericsError(AccordError):
    """A quantity that must hold (ratio 1 and KL 0 at step 0, finite loss) does not."""
