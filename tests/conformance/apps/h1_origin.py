"""A strict HTTP/1.1 origin on h11: h1_origin.py PORT LOG. Says on standard output, a line, at which port it listens: with PORT 0 one
that was free. Notes in LOG, a line each, what arrived.

    request METHOD TARGET BODY    a whole request; its body in hexadecimal
    cut METHOD                    a request whose client ended it within its body
    broken SENTENCE               bytes that are no request
"""

import asyncio
import sys

import h11

LOG = sys.argv[2]


def note(line):
    with open(LOG, "a", encoding="utf-8") as log:
        log.write(line + "\n")


async def serve(reader, writer):
    connection, request, body = h11.Connection(h11.SERVER), None, b""
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                note(f"request {request.method.decode()} {request.target.decode()} {body.hex()}")
                headers = [("content-length", "3"), ("content-type", "text/plain")]
                answer = [h11.Response(status_code=200, headers=headers)]
                answer += [] if request.method == b"HEAD" else [h11.Data(data=b"ok\n")]
                writer.write(b"".join(connection.send(part) for part in answer + [h11.EndOfMessage()]))
                await writer.drain()
                request = None
                if connection.our_state is h11.MUST_CLOSE:
                    break
                connection.start_next_cycle()
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                break
    except (h11.RemoteProtocolError, h11.LocalProtocolError) as error:
        # A client that is refused in the middle of its body leaves its request cut: that is how the origin is told.
        cut = request is not None and connection.trailing_data[1]
        note(f"cut {request.method.decode()}" if cut else f"broken {error}")
    except OSError:
        if request is not None:
            note(f"cut {request.method.decode()}")
    finally:
        writer.close()


async def main():
    open(LOG, "w", encoding="utf-8").close()
    port = int(sys.argv[1])
    # By IPv4 and IPv6, which a free port would differ for.
    server = await asyncio.start_server(serve, None if port else "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
