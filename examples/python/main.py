"""Lists the clients, puts one into a group, sends to the group, and closes it."""

import os
import sys

import grpc
from google.protobuf.duration_pb2 import Duration

# What grpc_tools.protoc made: see README.md.
from gateway.v1 import connections_pb2, connections_pb2_grpc
from gateway.v1 import directory_pb2, directory_pb2_grpc
from gateway.v1 import membership_pb2, membership_pb2_grpc
from gateway.v1 import messages_pb2, messages_pb2_grpc
from gateway.v1.types_pb2 import KIND_TEXT, Message, Target

GROUP = "lobby"
PATIENCE = 5  # seconds that an answer may take


def drive(channel):
    directory = directory_pb2_grpc.DirectoryStub(channel)
    # A list of any length comes in parts.
    parts = directory.StreamClients(directory_pb2.StreamClientsRequest(), timeout=PATIENCE)
    clients = [client.id for part in parts for client in part.clients]
    for client in clients:
        print("client", client)
    if not clients:
        sys.exit("nobody is connected")
    client = clients[0]

    membership = membership_pb2_grpc.MembershipStub(channel)
    joined = membership.Join(
        membership_pb2.JoinRequest(groups=[GROUP], clients=[client]), timeout=PATIENCE
    )
    # The call succeeds even if an item fails, for example because the client has just left.
    for failure in joined.failures:
        sys.exit(f"{failure.field}: {failure.message}")
    print(f"joined {GROUP}: {joined.joined}")

    messages = messages_pb2_grpc.MessagesStub(channel)
    sent = messages.Send(
        messages_pb2.SendRequest(
            target=Target(groups=[GROUP]),
            message=Message(kind=KIND_TEXT, data=b"hello, lobby"),
            # Later than that it is of no use to anybody.
            ttl=Duration(seconds=10),
            # Names the event: after a lost answer the call may be repeated and arrives once.
            idempotency_key=f"greeting of {client}",
        ),
        timeout=PATIENCE,
    )
    print(f"sent: {sent.delivery.queued} of {sent.delivery.matched}")

    connections = connections_pb2_grpc.ConnectionsStub(channel)
    closed = connections.Close(
        connections_pb2.CloseRequest(
            target=Target(clients=[client]), code=1000, reason="that was all"
        ),
        timeout=PATIENCE,
    )
    print("closed:", closed.closed)


def main():
    # One connection for all services.
    with grpc.insecure_channel(os.environ.get("GATEWAY", "127.0.0.1:20819")) as channel:
        try:
            drive(channel)
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")


main()
