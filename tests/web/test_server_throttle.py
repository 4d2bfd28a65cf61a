"""The counter behind every "too many attempts"."""

from __future__ import annotations

import threading

from accord.web.throttle import Throttle


def test_a_burst_gets_no_more_tries_than_its_share() -> None:
    throttle, allowed = Throttle(5, 60.0), []
    gate = threading.Barrier(16)

    def attempt() -> None:
        gate.wait()
        allowed.append(throttle.take("x") == 0)

    threads = [threading.Thread(target=attempt) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(allowed) == 5


def test_a_throttle_forgets_and_forgives() -> None:
    now = [0.0]
    throttle = Throttle(2, 10.0, clock=lambda: now[0], most_keys=3)
    assert [throttle.take("a") for _ in range(3)] == [0, 0, 10]
    throttle.take_back("a")
    assert throttle.take("a") == 0 and throttle.wait("a") == 10
    throttle.forgive("a")
    assert throttle.wait("a") == 0
    now[0] = 5.0
    for key in "abcd":
        throttle.take(key)
    assert len(throttle._events) == 3
    now[0] = 16.0
    throttle.take("e")
    assert set(throttle._events) == {"e"}
