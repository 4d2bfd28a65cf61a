"""The append-only store of everything that raters saw and said."""

from accord.ledger.ledger import Ledger
from accord.ledger.lineage import Release
from accord.ledger.queue import Assignment
from accord.ledger.verify import VerifyReport

__all__ = ["Assignment", "Ledger", "Release", "VerifyReport"]
