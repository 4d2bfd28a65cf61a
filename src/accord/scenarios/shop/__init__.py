"""The default scenario: a shop's assistant. Needs no torch."""

from accord.scenarios.shop.scenario import Scenario, load_scenario

__all__ = ["Scenario", "load_scenario"]
