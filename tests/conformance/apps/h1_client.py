"""Sends every case of gunicorn's corpus on a connection of its own: h1_client.py HOST PORT CORPUS SEEN.

First all at once, then each alone, ending its own direction: only then can the lines that h1_origin.py adds to SEEN be told apart.
Prints a JSON object: for each case the statuses that came, whether the connection was closed, and, of the second time, how many
answers came and how many requests the origin has read.
"""

import asyncio
import json
import pathlib
import re
import sys

# Nothing more comes after so much silence; all cases wait at once.
SILENCE = 10


def request(path):
    """The bytes of a case, by the corpus' own rules for writing them down."""
    data = path.read_bytes().replace(b"\n", b"").replace(b"\\r\\n", b"\r\n")
    data = data.replace(b"\\0", b"\0").replace(b"\\n", b"\n").replace(b"\\t", b"\t")
    return re.sub(rb"\\x([0-9a-fA-F]{2})", lambda digits: bytes([int(digits[1], 16)]), data)


async def send(host, port, data, turn):
    # A connection that says nothing for a second is no HTTP connection: opened and written to at once.
    async with turn:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(data)
    answer, closed = b"", False
    try:
        while not closed:
            some = await asyncio.wait_for(reader.read(65536), SILENCE)
            answer += some
            closed = not some
    except asyncio.TimeoutError:
        pass
    except OSError:
        closed = True
    writer.close()
    statuses = re.findall(rb"(?:^|\n)HTTP/1\.[01] (\d{3})", answer)
    return {"statuses": [int(status) for status in statuses], "closed": closed}


async def alone(host, port, data, seen):
    reader, writer = await asyncio.open_connection(host, port)
    before, answer = len(requests(seen)), b""
    try:
        writer.write(data)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), SILENCE)
    except OSError:
        pass
    writer.close()
    return {"answers": len(re.findall(rb"(?:^|\n)HTTP/1\.[01] 200 ", answer)), "requests": len(requests(seen)) - before}


def requests(seen):
    return [line for line in pathlib.Path(seen).read_text(encoding="utf-8").splitlines() if line.startswith("request ")]


async def main():
    host, port, corpus, seen = sys.argv[1:]
    cases = {f"{kind[:3]} {path.stem}": path for kind in ("invalid", "valid") for path in pathlib.Path(corpus, kind).glob("*.http")}
    turn = asyncio.Semaphore(1)
    results = await asyncio.gather(*(send(host, port, request(path), turn) for path in cases.values()))
    for path, result in zip(cases.values(), results):
        result.update(await alone(host, port, request(path), seen))
    print(json.dumps(dict(zip(cases, results))))


asyncio.run(main())
