"""gRPC's interoperability cases on Python's grpcio: interop.py ADDRESS CASE. Ends with 0 when the case holds."""

import os
import queue
import sys
import traceback

import grpc

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
pb, services = grpc.protos_and_services("interop.proto")

PATIENCE = 60
REQUESTS = [27182, 8, 1828, 45904]
RESPONSES = [31415, 9, 2653, 58979]


def payload(size):
    return pb.Payload(body=bytes(size))


def same(seen, wanted):
    assert seen == wanted, f"{seen!r} instead of {wanted!r}"


def fails(code, details, act):
    try:
        act()
    except grpc.RpcError as error:
        same(error.code(), code)
        if details is not None:
            same(error.details(), details)
    else:
        raise AssertionError("the call succeeded")


def ask(size, response):
    parameters = [pb.ResponseParameters(size=response)]
    return pb.StreamingOutputCallRequest(response_parameters=parameters, payload=payload(size))


class Sending:
    """Requests that are put one by one; iterates until None."""

    def __init__(self, *first):
        self.waiting = queue.Queue()
        for request in first:
            self.waiting.put(request)

    def __iter__(self):
        return iter(self.waiting.get, None)


def empty_unary(stub):
    same(stub.EmptyCall(pb.Empty(), timeout=PATIENCE), pb.Empty())


def large_unary(stub):
    response = stub.UnaryCall(pb.SimpleRequest(response_size=314159, payload=payload(271828)), timeout=PATIENCE)
    same(response.payload.body, bytes(314159))


def client_streaming(stub):
    requests = (pb.StreamingInputCallRequest(payload=payload(size)) for size in REQUESTS)
    same(stub.StreamingInputCall(requests, timeout=PATIENCE).aggregated_payload_size, sum(REQUESTS))


def server_streaming(stub):
    parameters = [pb.ResponseParameters(size=size) for size in RESPONSES]
    request = pb.StreamingOutputCallRequest(response_parameters=parameters)
    same([len(r.payload.body) for r in stub.StreamingOutputCall(request, timeout=PATIENCE)], RESPONSES)


def ping_pong(stub):
    sending = Sending()
    call = stub.FullDuplexCall(iter(sending), timeout=PATIENCE)
    for size, response in zip(REQUESTS, RESPONSES):
        sending.waiting.put(ask(size, response))
        same(len(next(call).payload.body), response)
    sending.waiting.put(None)
    same(list(call), [])


def empty_stream(stub):
    same(list(stub.FullDuplexCall(iter([]), timeout=PATIENCE)), [])


def timeout_on_sleeping_server(stub):
    sending = Sending(pb.StreamingOutputCallRequest(payload=payload(27182)))
    fails(grpc.StatusCode.DEADLINE_EXCEEDED, None, lambda: list(stub.FullDuplexCall(iter(sending), timeout=0.001)))
    sending.waiting.put(None)


def cancel_after_begin(stub):
    sending = Sending()
    call = stub.StreamingInputCall.future(iter(sending), timeout=PATIENCE)
    call.cancel()
    same(call.code(), grpc.StatusCode.CANCELLED)
    sending.waiting.put(None)


def cancel_after_first_response(stub):
    sending = Sending(ask(27182, 31415))
    call = stub.FullDuplexCall(iter(sending), timeout=PATIENCE)
    same(len(next(call).payload.body), 31415)
    call.cancel()
    fails(grpc.StatusCode.CANCELLED, None, lambda: next(call))
    sending.waiting.put(None)


def echoed_status(stub, message):
    status = pb.EchoStatus(code=2, message=message)
    unary = pb.SimpleRequest(response_status=status)
    fails(grpc.StatusCode.UNKNOWN, message, lambda: stub.UnaryCall(unary, timeout=PATIENCE))
    return status


def status_code_and_message(stub):
    message = "test status message"
    request = pb.StreamingOutputCallRequest(response_status=echoed_status(stub, message))
    fails(grpc.StatusCode.UNKNOWN, message, lambda: list(stub.FullDuplexCall(iter([request]), timeout=PATIENCE)))


def special_status_message(stub):
    echoed_status(stub, "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n")


def custom_metadata(stub):
    initial, trailing = ("x-grpc-test-echo-initial", "test_initial_metadata_value"), ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab")
    request = pb.SimpleRequest(response_size=314159, payload=payload(271828))
    call = stub.UnaryCall.future(request, metadata=[initial, trailing], timeout=PATIENCE)
    same(dict(call.initial_metadata()).get(initial[0]), initial[1])
    same(dict(call.trailing_metadata()).get(trailing[0]), trailing[1])
    call = stub.FullDuplexCall(iter([ask(271828, 314159)]), metadata=[initial, trailing], timeout=PATIENCE)
    same([len(response.payload.body) for response in call], [314159])
    same(dict(call.initial_metadata()).get(initial[0]), initial[1])
    same(dict(call.trailing_metadata()).get(trailing[0]), trailing[1])


def unimplemented_method(stub):
    fails(grpc.StatusCode.UNIMPLEMENTED, None, lambda: stub.UnimplementedCall(pb.Empty(), timeout=PATIENCE))


def run():
    with grpc.insecure_channel(sys.argv[1], [("grpc.enable_http_proxy", 0)]) as channel:
        if sys.argv[2] == "unimplemented_service":
            unimplemented_method(services.UnimplementedServiceStub(channel))
        else:
            globals()[sys.argv[2]](services.TestServiceStub(channel))


try:
    run()
except Exception:
    traceback.print_exc()
    os._exit(1)
# Without the interpreter's own end, which now and then waits for ever: a call's finaliser wants the lock with which one of grpcio's
# daemon threads stands still by then.
os._exit(0)
