"""The hand-over between two threads of the live path: one place, the newest wins, the loser is counted."""

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LatestSlot(Generic[Item]):
    """A queue of length one for pictures that are worthless once a newer one exists.

    A queue with room for more would only ever hold pictures that are shown late: whoever is slower than the
    camera would fall behind by the queue's whole length and stay there.
    """

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._item: Item | None = None
        self._closed = False
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Items that were replaced before anybody took them."""
        return self._dropped

    @property
    def closed(self) -> bool:
        """True once `close` was called: nothing more will come."""
        return self._closed

    def put(self, item: Item) -> None:
        """Leave an item; never blocks. After `close` it is thrown away."""
        with self._ready:
            if self._closed:
                return
            if self._item is not None:
                self._dropped += 1
            self._item = item
            self._ready.notify()

    def take(self, timeout_seconds: float) -> Item | None:
        """The newest item, waiting for one at most `timeout_seconds`; None if none came or the slot is closed."""
        with self._ready:
            self._ready.wait_for(lambda: self._item is not None or self._closed, timeout_seconds)
            item, self._item = self._item, None
            return item

    def clear(self) -> None:
        """Forget an item that nobody has taken, without counting it as dropped."""
        with self._ready:
            self._item = None

    def close(self) -> None:
        """Wake the reader for good; an item that still lies here may be taken."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
