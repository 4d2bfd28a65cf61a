"""Fixtures for tests in a real browser. Tests name it in `pytest_plugins`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from accord.ledger import database
from web.browser_world import CHROMIUM, Browse, Shop, browsers, build_shop
from web.ranking_world import build_ranked_shop


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} is not there (on Debian: apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def built_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Do not write to its file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "SYNCHRONOUS", "OFF")
        return build_shop(tmp_path_factory.mktemp("shop") / "ledger.sqlite")


@pytest.fixture(scope="session")
def ranked_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """One that asks for rankings. Do not write to its file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "SYNCHRONOUS", "OFF")
        return build_ranked_shop(tmp_path_factory.mktemp("ranked") / "ledger.sqlite")


@pytest.fixture
def shop(built_shop: Shop) -> Shop:
    """What `browse` serves; a file of tests may have another."""
    return built_shop


@pytest.fixture
def browse(
    chromium: Browser, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Browse]:
    """browse("rater") is the browser of somebody who is signed in, browse() of somebody who is not.

    All see one server over a fresh copy of the shop. The test fails when anything went wrong in any page: an
    error on the console, a dialog, a request to another host.
    """
    monkeypatch.setattr(database, "SYNCHRONOUS", "OFF")
    with browsers(chromium, shop, tmp_path) as made:
        yield made
