"""A gRPC server with every kind of call; messages are plain bytes. Prints what became of cancelled calls."""

import sys
import threading
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

LARGEST = 80 * 1024 * 1024


def unary(request, context):
    seen = dict(context.invocation_metadata())
    if "fail" in seen:
        context.set_trailing_metadata((("x-detail", "as asked"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked: 100 %")
    context.set_trailing_metadata((("x-trailer", "kept"),))
    return request[::-1]


def mirror(request, context):
    """Says in both kinds of metadata what it was told, and compresses."""
    told = [pair for pair in context.invocation_metadata() if pair[0].startswith("x-")]
    context.send_initial_metadata([("x-remaining", str(context.time_remaining())), *told])
    context.set_trailing_metadata(told)
    return request


def server_streaming(request, context):
    for n in range(int(request)):
        yield b"%d" % n


def client_streaming(requests, context):
    return b",".join(requests)


def bidirectional(requests, context):
    for request in requests:
        yield b"echo " + request


def cancelled(context, line):
    """An event at which the call is over, which is printed then: grpcio does not go on with a generator whose call ended while
    its message was sent, so what follows a `yield` may never run."""
    ended = threading.Event()

    def over():
        print(line, flush=True)
        ended.set()

    if not context.add_callback(over):
        over()
    return ended


def never(request, context):
    print("waiting", flush=True)
    cancelled(context, "cancelled").wait()
    return b""


def endless(request, context):
    """Sends one message, then only waits for the caller to go."""
    ended = cancelled(context, "stream cancelled")
    yield b"first"
    ended.wait()


def note(request, context):
    print(f"noted {request.decode()}", flush=True)
    return b""


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Mirror": grpc.unary_unary_rpc_method_handler(mirror),
    "ServerStreaming": grpc.unary_stream_rpc_method_handler(server_streaming),
    "ClientStreaming": grpc.stream_unary_rpc_method_handler(client_streaming),
    "Bidirectional": grpc.stream_stream_rpc_method_handler(bidirectional),
    "Never": grpc.unary_unary_rpc_method_handler(never),
    "Note": grpc.unary_unary_rpc_method_handler(note),
    "Endless": grpc.unary_stream_rpc_method_handler(endless),
}

server = grpc.server(
    futures.ThreadPoolExecutor(max_workers=16),
    options=[("grpc.max_receive_message_length", LARGEST), ("grpc.max_send_message_length", LARGEST)],
    compression=grpc.Compression.Gzip,
)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Kinds", METHODS),))
servicer = health.HealthServicer()
servicer.set("test.Kinds", health_pb2.HealthCheckResponse.SERVING)
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
reflection.enable_server_reflection([health.SERVICE_NAME, reflection.SERVICE_NAME], server)
server.add_insecure_port(sys.argv[1])
server.start()
server.wait_for_termination()
