"""The panel's connections: at most so many at once, and none that stays silent."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

MOST_CONNECTIONS = 256
FIRST_REQUEST_SECONDS = 10.0
"""A connection that has not asked for anything by then is closed."""


class ConnectionLimit:
    """Counts the connections of a server; `protocols` is what the event loop makes one of for each."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.open = 0
        self._loop = loop

    def protocols(self, server: Any) -> Callable[[], asyncio.Protocol]:
        """aiohttp's own protocol with the limits in front of it."""
        limit = self

        class Limited(web.RequestHandler):
            __slots__ = ("counted", "heard")

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.heard = False
                self.counted = limit.open < MOST_CONNECTIONS
                super().connection_made(transport)
                if not self.counted and isinstance(transport, asyncio.Transport):
                    transport.abort()
                    return
                limit.open += 1
                limit._loop.call_later(FIRST_REQUEST_SECONDS, self.give_up)

            def data_received(self, data: bytes) -> None:
                self.heard = True
                super().data_received(data)

            def connection_lost(self, exc: BaseException | None) -> None:
                if self.counted:
                    self.counted = False
                    limit.open -= 1
                super().connection_lost(exc)

            def give_up(self) -> None:
                if not self.heard and self.transport is not None:
                    self.transport.close()

        return lambda: Limited(server, loop=self._loop, keepalive_timeout=15.0)
