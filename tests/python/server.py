"""A gRPC server with every kind of call; messages are plain bytes. Prints what became of cancelled calls."""

import sys
import threading
from concurrent import futures

import grpc


def unary(request, context):
    seen = dict(context.invocation_metadata())
    if "fail" in seen:
        context.set_trailing_metadata((("x-detail", "as asked"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked: 100 %")
    context.set_trailing_metadata((("x-trailer", "kept"),))
    return request[::-1]


def server_streaming(request, context):
    for n in range(int(request)):
        yield b"%d" % n


def client_streaming(requests, context):
    return b",".join(requests)


def bidirectional(requests, context):
    for request in requests:
        yield b"echo " + request


def never(request, context):
    ended = threading.Event()
    context.add_callback(ended.set)
    print("waiting", flush=True)
    ended.wait()
    print("cancelled", flush=True)
    return b""


def endless(request, context):
    """Sends one message, then only waits for the caller to go."""
    ended = threading.Event()
    context.add_callback(ended.set)
    yield b"first"
    ended.wait()
    print("stream cancelled", flush=True)


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStreaming": grpc.unary_stream_rpc_method_handler(server_streaming),
    "ClientStreaming": grpc.stream_unary_rpc_method_handler(client_streaming),
    "Bidirectional": grpc.stream_stream_rpc_method_handler(bidirectional),
    "Never": grpc.unary_unary_rpc_method_handler(never),
    "Endless": grpc.unary_stream_rpc_method_handler(endless),
}

server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Kinds", METHODS),))
server.add_insecure_port(sys.argv[1])
server.start()
server.wait_for_termination()
