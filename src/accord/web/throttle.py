"""How often somebody may try."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock


@dataclass
class Throttle:
    """At most `limit` events a key within `seconds`. In memory: a restart forgives."""

    limit: int
    seconds: float
    clock: Callable[[], float] = time.monotonic
    most_keys: int = 100_000
    _events: dict[str, deque[float]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def take(self, key: str) -> float:
        """0 when this key may try, which counts as a try; else the seconds until it may.

        One step, so that a crowd of requests at once gets no more tries than one after the other.
        """
        with self._lock:
            if wait := self._wait(key):
                return wait
            if len(self._events) >= self.most_keys:
                for old in [k for k in self._events if not self._recent(k)]:
                    del self._events[old]
            if key in self._events or len(self._events) < self.most_keys:
                self._events.setdefault(key, deque()).append(self.clock())
            return 0.0

    def wait(self, key: str) -> float:
        """Seconds until this key may try again; 0 when it may now."""
        with self._lock:
            return self._wait(key)

    def forgive(self, key: str) -> None:
        with self._lock:
            self._events.pop(key, None)

    def take_back(self, key: str) -> None:
        """Undo one `take`."""
        with self._lock:
            if events := self._events.get(key):
                events.pop()

    def _wait(self, key: str) -> float:
        events = self._recent(key)
        return events[0] + self.seconds - self.clock() if len(events) >= self.limit else 0.0

    def _recent(self, key: str) -> deque[float]:
        events = self._events.get(key, deque())
        while events and events[0] <= self.clock() - self.seconds:
            events.popleft()
        return events
