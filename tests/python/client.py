"""Calls server.py at ADDRESS in the way CASE says and asserts the outcome."""

import hashlib
import queue
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

LARGEST = 80 * 1024 * 1024

address, case = sys.argv[1:]
channel = grpc.insecure_channel(
    address, options=[("grpc.max_receive_message_length", LARGEST), ("grpc.max_send_message_length", LARGEST)]
)


def call(kind, name):
    return getattr(channel, kind)(f"/test.Kinds/{name}", request_serializer=None, response_deserializer=None)


def unary():
    reply, done = call("unary_unary", "Unary").with_call(b"abc", timeout=20)
    assert reply == b"cba", reply
    assert done.code() == grpc.StatusCode.OK
    assert ("x-trailer", "kept") in [tuple(pair) for pair in done.trailing_metadata()], done.trailing_metadata()
    large = b"x" * 3_000_000
    assert call("unary_unary", "Unary")(large, timeout=20) == large


def failing():
    try:
        call("unary_unary", "Unary")(b"", metadata=(("fail", "yes"),), timeout=20)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "as asked: 100 %", error
        assert ("x-detail", "as asked") in [tuple(pair) for pair in error.trailing_metadata()], error
    else:
        raise AssertionError("no error")


def server_streaming():
    replies = list(call("unary_stream", "ServerStreaming")(b"500", timeout=20))
    assert replies == [b"%d" % n for n in range(500)], len(replies)


def client_streaming():
    parts = [b"%d" % n for n in range(500)]
    assert call("stream_unary", "ClientStreaming")(iter(parts), timeout=20) == b",".join(parts)


def bidirectional():
    """Each message is answered before the next is sent: nothing is held back anywhere."""
    todo = queue.Queue()
    replies = call("stream_stream", "Bidirectional")(iter(todo.get, None), timeout=20)
    for n in range(100):
        todo.put(b"%d" % n)
        assert next(replies) == b"echo %d" % n
    todo.put(None)
    assert list(replies) == []
    assert replies.code() == grpc.StatusCode.OK


def metadata():
    """Binary values pass as they are, a deadline is told to the server, and messages may be compressed."""
    told = (("x-all-bin", bytes(range(256))), ("x-all-bin", b""), ("x-text", "a, b"))
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate):
        content = b"compressible " * 10_000
        method = call("unary_unary", "Mirror")
        reply, done = method.with_call(content, metadata=told, timeout=120, compression=compression)
        assert reply == content
        initial = [tuple(pair) for pair in done.initial_metadata()]
        remaining = [float(value) for name, value in initial if name == "x-remaining"]
        assert len(remaining) == 1 and 0 < remaining[0] <= 125, remaining
        for came in (initial, [tuple(pair) for pair in done.trailing_metadata()]):
            assert sorted(pair for pair in came if pair in told) == sorted(told), came


def large():
    """A message of 64 MiB each way."""
    piece = hashlib.sha256(b"piece").digest()
    message = piece * (64 * 1024 * 1024 // len(piece))
    assert call("unary_unary", "Mirror")(message, timeout=300) == message


def services():
    """Health and reflection are services like any other."""
    health = health_pb2_grpc.HealthStub(channel)
    answer = health.Check(health_pb2.HealthCheckRequest(service="test.Kinds"), timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    updates = health.Watch(health_pb2.HealthCheckRequest(service="none"), timeout=60)
    assert next(updates).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    updates.cancel()
    found = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert "grpc.health.v1.Health" in found, found


def deadline():
    # Connected, so that the deadline is met at the server and not on the way there.
    assert call("unary_unary", "Unary")(b"ab", timeout=60) == b"ba"
    try:
        call("unary_unary", "Never")(b"", timeout=5)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    else:
        raise AssertionError("no error")


def cancel():
    replies = call("unary_stream", "Endless")(b"", timeout=60)
    assert next(replies) == b"first"
    replies.cancel()
    try:
        next(replies)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.CANCELLED, error
    else:
        raise AssertionError("no error")
    # The connection serves on.
    assert call("unary_unary", "Unary")(b"ab", timeout=20) == b"ba"


def cancel_then_note():
    replies = call("unary_stream", "Endless")(b"", timeout=60)
    assert next(replies) == b"first"
    replies.cancel()
    for n in range(4):
        call("unary_unary", "Note")(b"%d" % n, timeout=60)


def unavailable():
    try:
        call("unary_unary", "Unary")(b"", timeout=20)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        assert error.details().startswith(("UF ", "UH ")), error.details()
    else:
        raise AssertionError("no error")


{function.__name__: function for function in (
    unary, failing, server_streaming, client_streaming, bidirectional, metadata, large, services, deadline, cancel,
    cancel_then_note, unavailable,
)}[case]()
print("ok")
