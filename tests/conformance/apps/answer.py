"""The server of the matrix on Python's http.server: answer.py PORT. HTTP/1.1; it answers as go/answer does."""

import hashlib
import http.server
import json
import socket
import sys

UNSEEN = {"connection", "keep-alive", "transfer-encoding", "traceparent", "tracestate", "x-forwarded-client-cert"}


def pattern(length):
    return (bytes(range(251)) * (length // 251 + 1))[:length]


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def body(self):
        """The request's body, piece by piece."""
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            yield self.rfile.read(int(self.headers.get("content-length", 0)))
            return
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def reply(self, status, body, *headers):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(body)

    def echo(self, length, hashed):
        names = dict.fromkeys(name.lower() for name in self.headers)
        seen = {name: ", ".join(self.headers.get_all(name)) for name in names if name not in UNSEEN}
        told = {"method": self.command, "target": self.path, "version": self.request_version, "headers": seen}
        told |= {"length": length, "sha256": hashed}
        self.reply(200, json.dumps(told, sort_keys=True).encode(), ("content-type", "application/json"))

    def stream(self, number):
        self.send_response(200)
        self.send_header("content-type", "application/octet-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for _ in range(number):
            self.wfile.write(b"3e8\r\n" + pattern(1000) + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def answer(self):
        length, hashed = 0, hashlib.sha256()
        for piece in self.body():
            length += len(piece)
            hashed.update(piece)
        what, _, number = self.path[1:].partition("/")
        octets = ("content-type", "application/octet-stream")
        if what.startswith("echo"):
            self.echo(length, hashed.hexdigest())
        elif what == "bytes":
            self.reply(200, pattern(int(number)), octets)
        elif what == "stream":
            self.stream(int(number))
        elif what == "status":
            more = [("location", "/elsewhere"), ("etag", '"1"'), ("content-type", "text/plain")]
            self.reply(int(number), f"this is {number}\n".encode(), *more)
        elif what == "fields":
            cookies = [("set-cookie", "a=1; Path=/"), ("set-cookie", "b=2; Expires=Wed, 21 Oct 2099 07:28:00 GMT")]
            more = [("vary", "accept"), ("vary", "cookie"), ("x-empty", ""), ("x-long", "long " * 1000 + "end")]
            self.reply(200, b"fields\n", *cookies, *more, ("content-type", "text/plain; charset=utf-8"))
        else:
            self.reply(404, b"no such thing\n")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = answer

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128


Server(("::", int(sys.argv[1])), Answer).serve_forever()
