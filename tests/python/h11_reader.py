"""Reads HTTP/1 requests as h11, a strict origin, does. On standard input each connection's whole input is a length in four bytes and
that many bytes; on standard output it is a line of JSON: a list of the requests, ended by what is wrong with the first that is none."""

import json
import sys

import h11


def read(message):
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(message) + 1)
    connection.receive_data(message)
    told = {"body": ""}
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            told["method"], told["target"] = event.method.decode(), event.target.decode()
            told["version"] = event.http_version.decode()
            told["headers"] = [[name.decode(), value.decode("latin-1")] for name, value in event.headers.raw_items()]
        elif isinstance(event, h11.Data):
            told["body"] += bytes(event.data).decode("latin-1")
        elif isinstance(event, h11.EndOfMessage):
            told["trailers"] = [[name.decode(), value.decode("latin-1")] for name, value in event.headers]
            return told, connection.trailing_data[0]
        else:
            raise ValueError(f"{event!r} within a request")


def read_all(wire):
    requests = []
    try:
        while wire:
            told, wire = read(wire)
            requests.append(told)
    except (h11.RemoteProtocolError, ValueError) as error:
        requests.append({"error": str(error)})
    return requests


def main():
    while length := sys.stdin.buffer.read(4):
        print(json.dumps(read_all(sys.stdin.buffer.read(int.from_bytes(length)))))


main()
