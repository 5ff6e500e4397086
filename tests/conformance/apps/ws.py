"""WebSocket on Python's websockets: `ws.py serve PORT`, or `ws.py ask URL`, which prints what came of each scenario as a line of JSON."""

import asyncio
import hashlib
import json
import logging
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus


def refuse(connection, request):
    return connection.respond(403, "no\n") if request.path == "/refuse" else None


async def echo(socket):
    async for message in socket:
        if socket.request.path == "/close":
            await socket.close(4001, "enough")
        else:
            await socket.send(message)


async def run(port):
    logging.disable(logging.CRITICAL)
    async with serve(echo, None, port, max_size=None, process_request=refuse, select_subprotocol=choose):
        await asyncio.Future()


def choose(_, offered):
    return "b" if "b" in offered else None


async def echoed(socket, message):
    await socket.send(message)
    data = await socket.recv()
    raw = data.encode() if isinstance(data, str) else data
    return {"binary": isinstance(data, bytes), "length": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}


async def text(url):
    async with connect(url + "/echo") as socket:
        told = [await echoed(socket, message) for message in ["", "hello", "\u00fc\u20ac\U0001f600"]]
    return {"told": told, "code": socket.close_code}


async def binary(url):
    async with connect(url + "/echo", max_size=None) as socket:
        return await echoed(socket, (bytes(range(251)) * 3985)[:1000000])


async def fragments(url):
    async with connect(url + "/echo", max_size=None) as socket:
        return await echoed(socket, ["a" * 70000, "b" * 70000, "c"])


async def ping(url):
    async with connect(url + "/echo") as socket:
        pong = await socket.ping("are you there")
        return {"pong": await pong > 0}


async def sub_protocol(url):
    async with connect(url + "/echo", subprotocols=["a", "b"]) as socket:
        extensions = [extension.name for extension in socket.protocol.extensions]
        return {"protocol": socket.subprotocol, "extensions": extensions}


async def closed(url):
    async with connect(url + "/close") as socket:
        await socket.send("go")
        try:
            return {"error": f"came: {await socket.recv()}"}
        except ConnectionClosed as end:
            return {"code": end.rcvd.code, "reason": end.rcvd.reason}


async def refused(url):
    try:
        async with connect(url + "/refuse"):
            return {"error": "not refused"}
    except InvalidStatus as error:
        return {"status": error.response.status_code, "body": error.response.body.decode()}


async def ask(url):
    for scenario in [text, binary, fragments, ping, sub_protocol, closed, refused]:
        name = scenario.__name__.replace("_", "-")
        try:
            told = await scenario(url)
        except Exception as error:  # noqa: BLE001  Whatever it is, it is what came.
            told = {"error": repr(error)}
        print(json.dumps({"name": name, **told}))


asyncio.run(run(int(sys.argv[2])) if sys.argv[1] == "serve" else ask(sys.argv[2]))
