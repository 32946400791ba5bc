"""Understands the README's lines for grpcurl as grpcurl does, by server reflection.

grpcurl itself is in no registry that the tests use. So `backend.py` puts this in its place. Each
call and its answers become a line of the file that the variable GRPCURL_LOG names, if it is set.

usage: grpcurl -plaintext [-d JSON…] ADDRESS SERVICE/METHOD
"""

import argparse
import json
import os
import pathlib
import sys

import grpc
from google.protobuf import json_format, message_factory

from foreign import Foreigner


def requests(text, kind):
    """Any number of JSON objects, one behind the other; a field that isn't there is an error."""
    decoder = json.JSONDecoder()
    text = text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        yield json_format.ParseDict(value, kind())
        text = text[end:].lstrip()


def main():
    parser = argparse.ArgumentParser(prog="grpcurl", allow_abbrev=False)
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-d", default="{}")
    parser.add_argument("address")
    parser.add_argument("path")
    asked = parser.parse_args()

    server = Foreigner(asked.address)
    service, name = asked.path.split("/")
    method = server.pool.FindServiceByName(service).FindMethodByName(name)
    sent = list(requests(asked.d, message_factory.GetMessageClass(method.input_type)))
    if not method.client_streaming and len(sent) != 1:
        parser.error(f"{asked.path} takes one request, not {len(sent)}")
    # Every call can be made as a stream of requests that is answered by a stream.
    call = server.channel.stream_stream(
        f"/{asked.path}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    answers = []
    try:
        for answer in call(iter(sent), timeout=30):
            print(json_format.MessageToJson(answer))
            answers.append(json_format.MessageToDict(answer))
    except grpc.RpcError as error:
        sys.exit(f"ERROR: {error.code().name}: {error.details()}")
    if log := os.environ.get("GRPCURL_LOG"):
        with pathlib.Path(log).open("a", encoding="utf-8") as file:
            print(json.dumps({"path": asked.path, "answers": answers}), file=file)


main()
