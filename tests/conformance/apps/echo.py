"""A WebSocket server that sends every message back: echo.py PORT.

The older server of `websockets`: the newer one fails case 7.1.5 also without anything in between.
"""

import asyncio
import logging
import sys
import warnings

warnings.simplefilter("ignore", DeprecationWarning)
from websockets.legacy.server import serve  # noqa: E402


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main():
    logging.disable(logging.CRITICAL)  # The suite breaks the protocol on purpose.
    async with serve(echo, None, int(sys.argv[1]), max_size=None):
        await asyncio.Future()


asyncio.run(main())
