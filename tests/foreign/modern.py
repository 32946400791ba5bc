"""Calls of gateway.v1 by name, made by server reflection."""

import grpc
from google.protobuf import message_factory

from foreign import Foreigner

SERVICES = {
    "Messages": "Send SendStream".split(),
    "Connections": "Close".split(),
    "Membership": "Bind Unbind Join Leave Dissolve Apply GetAttributes SetAttributes".split(),
    "Directory": """DescribeClients ListClients StreamClients ListUids StreamUids ListGroups
        StreamGroups CheckOnline Count""".split(),
}
METHODS = {name: f"gateway.v1.{service}" for service, names in SERVICES.items() for name in names}


class Modern(Foreigner):
    """`modern.Send(target={"all": True}, message={"data": b"x"})` and so on.

    Calls that stream take a list of requests, or give a list of answers. `called` are the names of
    the calls that were made.
    """

    def __init__(self, address):
        super().__init__(address)
        self.called = []

    def __getattr__(self, name):
        service = METHODS[name]
        self.called.append(name)
        method = self.pool.FindServiceByName(service).FindMethodByName(name)
        if not method.server_streaming:
            return lambda **fields: self.call(service, name, **fields)
        request = message_factory.GetMessageClass(method.input_type)
        call = self.channel.stream_stream(
            f"/{service}/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        if method.client_streaming:
            return lambda items: list(call((request(**item) for item in items), timeout=30))
        return lambda **fields: list(call(iter([request(**fields)]), timeout=30))


def refused(code, call, *words):
    """The call is refused with this status, whose details say all of these words."""
    try:
        answer = call()
    except grpc.RpcError as error:
        assert error.code() is code, error
        assert all(word in error.details() for word in words), (words, error.details())
    else:
        raise AssertionError(f"not refused: {answer}")
