"""Restart intensity: so many restarts within so many seconds, and no more (the rule of OTP's supervisors)."""

from __future__ import annotations

from collections import deque


class RestartIntensity:
    """At most `max_restarts` within any `period_s` seconds."""

    def __init__(self, max_restarts: int, period_s: float) -> None:
        self.max_restarts = max_restarts
        self.period_s = period_s
        self._at: deque[float] = deque()

    def exceeded(self, now: float) -> bool:
        """Count one restart at `now`; whether it is one too many."""
        self._at.append(now)
        while self._at[0] <= now - self.period_s:
            self._at.popleft()
        return len(self._at) > self.max_restarts
