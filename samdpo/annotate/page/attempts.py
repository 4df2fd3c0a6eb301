"""Failed sign-ins are counted, so that nobody can try tokens by the thousand."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import Lock

WINDOW = 300.0  # seconds
PER_ADDRESS = 10  # failures within the window
IN_ALL = 200  # failures of all addresses together: a proxy, or someone with many addresses


class SignInAttempts:
    """Counts failures of the last minutes, by address and in all."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: deque[tuple[float, str]] = deque()
        self._lock = Lock()

    def wait(self, address: str) -> float:
        """Seconds until this address may try again; 0 where it may now."""
        with self._lock:
            return self._wait(address)

    def _wait(self, address: str) -> float:
        now = self._clock()
        while self._failures and self._failures[0][0] <= now - WINDOW:
            self._failures.popleft()
        own = [when for when, who in self._failures if who == address]
        if len(own) >= PER_ADDRESS:
            return own[-PER_ADDRESS] + WINDOW - now
        if len(self._failures) >= IN_ALL:
            return self._failures[-IN_ALL][0] + WINDOW - now
        return 0.0

    def begin(self, address: str) -> float:
        """As :meth:`wait`; where it is 0 the attempt counts as a failure until :meth:`succeeded`.

        Counted before the token is looked at, so that attempts at the same moment do not all find the count low.
        """
        with self._lock:
            wait = self._wait(address)
            if wait == 0:
                self._count(address)
            return wait

    def succeeded(self, address: str) -> None:
        """The attempt that this address has begun last was no failure."""
        with self._lock:
            for place in range(len(self._failures) - 1, -1, -1):
                if self._failures[place][1] == address:
                    del self._failures[place]
                    return

    def failed(self, address: str) -> None:
        """Count one failure."""
        with self._lock:
            self._count(address)

    def _count(self, address: str) -> None:
        self._failures.append((self._clock(), address))
        while len(self._failures) > 2 * IN_ALL:
            self._failures.popleft()
