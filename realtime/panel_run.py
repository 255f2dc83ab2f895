"""The run behind the panel, for its request handlers: there once it has started, called in threads of its own."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .live_controls import LiveControls
from .panel_guard import Refused

Result = TypeVar("Result")

MOST_CALLS = 4
"""Requests that are worked on at once; more wait."""


class PanelRun:
    """What handlers know of the live run."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._controls: LiveControls | None = None
        self._threads = ThreadPoolExecutor(MOST_CALLS, thread_name_prefix="impasto-panel-call")

    @property
    def attached(self) -> bool:
        """Whether the run has begun."""
        return self._controls is not None

    def attach(self, controls: LiveControls) -> None:
        """The run has begun."""
        self._controls = controls

    @property
    def controls(self) -> LiveControls:
        """What a person can do to the run."""
        if self._controls is None:
            raise Refused(503, "the program is still starting")
        return self._controls

    def wake(self) -> None:
        """Somebody began to watch."""
        if self._controls is not None:
            self._controls.session.wake()

    async def call(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call what may take long without holding up the event loop, and so every other viewer."""
        return await self._loop.run_in_executor(self._threads, function, *arguments)

    def close(self) -> None:
        """Calls that are under way end by themselves; what waits is forgotten."""
        self._threads.shutdown(wait=False, cancel_futures=True)
