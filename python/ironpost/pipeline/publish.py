"""Who is told at once. Live subscribers have bounded queues, and what a slow one misses is counted."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

_CAPACITY = 256


class Subscription:
    """What one subscriber still has to read."""

    def __init__(self, capacity: int) -> None:
        self._waiting: deque[dict[str, Any]] = deque()
        self._capacity = capacity
        self._something = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def put(self, item: dict[str, Any]) -> None:
        """Adds an item; when full, the oldest one goes and is counted."""
        if len(self._waiting) >= self._capacity:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(item)
        self._something.set()

    def close(self) -> None:
        """Lets the reader end after what is waiting."""
        self._closed = True
        self._something.set()

    async def get(self) -> dict[str, Any] | None:
        """Returns the next item, or None when the publisher has ended."""
        while not self._waiting:
            if self._closed:
                return None
            self._something.clear()
            await self._something.wait()
        return self._waiting.popleft()


class Publisher:
    """Hands every item to every subscriber without ever waiting for one."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._subscriptions: set[Subscription] = set()
        self._dropped_by_gone = 0

    def subscribe(self) -> Subscription:
        """Starts a subscription; the caller ends it with :meth:`unsubscribe`."""
        subscription = Subscription(self._capacity)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Ends a subscription; its drops stay counted."""
        if subscription in self._subscriptions:
            self._subscriptions.discard(subscription)
            self._dropped_by_gone += subscription.dropped

    def publish(self, kind: str, item: dict[str, Any]) -> None:
        """Hands out one item.

        Args:
            kind: ``alert``, ``decision`` or ``action``; becomes the object's only key.
            item: Its JSON form.
        """
        for subscription in self._subscriptions:
            subscription.put({kind: item})

    def close(self) -> None:
        """Lets all subscribers end after what is waiting for them."""
        for subscription in self._subscriptions:
            subscription.close()

    def counters(self) -> dict[str, int]:
        """Returns how many subscribers there are, what waits for them and what they missed."""
        return {
            "subscribers": len(self._subscriptions),
            "capacity": self._capacity,
            "waiting": max((len(s._waiting) for s in self._subscriptions), default=0),  # noqa: SLF001 - same file
            "dropped": self._dropped_by_gone + sum(s.dropped for s in self._subscriptions),
        }
