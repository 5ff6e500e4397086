"""Clients of the matrix: ask.py CLIENT URL SCENARIOS prints what came of each scenario, as a line of JSON.

CLIENT is http.client, httpx1, httpx2, curl1 or curl2: the last digit is HTTP's version.
"""

import hashlib
import http.client
import json
import subprocess
import sys
import tempfile
import urllib.parse

import httpx

client, url, scenarios = sys.argv[1:]
PATIENCE = 30


def pieces(body):
    for start in range(0, len(body), 65_000):
        yield body[start : start + 65_000]


def fields(pairs):
    """Header fields by name; of those that stand several times, the values joined."""
    joined = {}
    for name, value in pairs:
        joined.setdefault(name.lower(), []).append(value)
    return {name: ", ".join(values) for name, values in joined.items()}


def standard():
    """Python's own client, on one connection."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=PATIENCE)

    def ask(method, path, headers, body, streamed):
        content = pieces(body) if streamed else body
        connection.request(method, path, content, headers, encode_chunked=streamed)
        response = connection.getresponse()
        return response.status, response.version, response.getheaders(), response.read()

    return ask


def with_httpx(version):
    session = httpx.Client(http1=version == 1, http2=version == 2, timeout=PATIENCE, trust_env=False)

    def ask(method, path, headers, body, streamed):
        content = pieces(body) if streamed else body
        response = session.request(method, url + path, headers=headers, content=content)
        return response.status_code, response.http_version, response.headers.multi_items(), response.content

    return ask


def with_curl(version):
    flag = {1: "--http1.1", 2: "--http2-prior-knowledge"}[version]

    def ask(method, path, headers, body, streamed):
        with tempfile.TemporaryDirectory() as folder:
            command = ["curl", "-sS", flag, "--noproxy", "*", "--max-time", str(PATIENCE), "--path-as-is"]
            command += ["-D", f"{folder}/head", "-o", f"{folder}/body"]
            command += ["-I"] if method == "HEAD" else ["-X", method]
            for name, value in headers.items():
                command += ["-H", f"{name}: {value}" if value else f"{name};"]
            if streamed:
                command += ["-T", "-"]
            elif body is not None:
                command += ["-H", "expect:", "--data-binary", "@-"]
            open(f"{folder}/body", "wb").close()
            run = subprocess.run(command + [url + path], input=body or b"", capture_output=True)
            if run.returncode:
                raise OSError(run.stderr.decode())
            # Heads of interim responses stand before the last one.
            head = open(f"{folder}/head", encoding="latin-1", newline="").read()
            lines = head.removesuffix("\r\n\r\n").split("\r\n\r\n")[-1].split("\r\n")
            content = open(f"{folder}/body", "rb").read() if method != "HEAD" else b""
            pairs = [line.split(": ", 1) if ": " in line else (line.rstrip(":"), "") for line in lines[1:]]
            return int(lines[0].split()[1]), lines[0].split()[0], pairs, content

    return ask


def run(ask, scenario):
    body = scenario.get("body")
    if body is not None:
        body = (bytes(range(251)) * (body // 251 + 1))[:body]
    try:
        status, version, headers, content = ask(
            scenario["method"], scenario["path"], scenario["headers"], body, scenario.get("streamed", False)
        )
    except Exception as error:
        return {"name": scenario["name"], "error": repr(error)}
    told = {"name": scenario["name"], "status": status, "version": version, "headers": fields(headers), "length": len(content)}
    if len(content) < 4096:
        return told | {"text": content.decode("latin-1")}
    return told | {"sha256": hashlib.sha256(content).hexdigest()}


if client == "http.client":
    ask = standard()
else:
    ask = {"httpx": with_httpx, "curl": with_curl}[client[:-1]](int(client[-1]))
for scenario in json.load(open(scenarios, encoding="utf-8")):
    print(json.dumps(run(ask, scenario)))
