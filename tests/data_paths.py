"""Where tests find the small real data sets. They are not part of the project; tests skip without them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared_data(name: str) -> Path:
    """Folder of the data set `name`, from $ACCORD_TEST_DATA or `shared/data` beside the checkout."""
    roots = [Path(os.environ["ACCORD_TEST_DATA"])] if "ACCORD_TEST_DATA" in os.environ else []
    roots += [ROOT.parent / "shared" / "data", ROOT / "shared" / "data"]
    for root in roots:
        if (root / name).is_dir():
            return root / name
    pytest.skip(f"data set {name!r} is not at hand (set ACCORD_TEST_DATA to the folder that holds it)")
