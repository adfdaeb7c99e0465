"""A host of another maker: aiospb's HostApplication, with the bytes of Sparkplug B read here.

    sparkplug_host.py PORT GROUP HOST COUNT

Says that it is online, hears the group until it has COUNT results, says that it is offline, and prints what it heard as
one JSON object: the births in their order, and the ids of the results. aiospb 3.0.4 has JSON where the wire has
protobuf, and knows no devices: both are added by the client below; session, will, state and contents are its own.
"""

import asyncio
import json
import struct
import sys

from aiospb import RealClock
from aiospb.data import DataType
from aiospb.hosts import HostApplication
from aiospb.messages import Message, NbirthContent, NdataContent, NdeathContent
from aiospb.mqtt.encoding import JsonEncoder
from aiospb.mqtt.paho import PahoMqttClient

# Longer than the test waits for anything.
PATIENCE_S = 60

Message._CONTENTS = {
    "NBIRTH": NbirthContent,
    "DBIRTH": NbirthContent,
    "NDATA": NdataContent,
    "DDATA": NdataContent,
    "DDEATH": NdataContent,
    "NDEATH": NdeathContent,
}


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data):
    """Number and value of each field of a protobuf message."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = varint(data, at)
        elif kind == 1:
            value, at = struct.unpack_from("<d", data, at)[0], at + 8
        elif kind == 2:
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
        elif kind == 5:
            value, at = struct.unpack_from("<f", data, at)[0], at + 4
        else:
            raise ValueError(f"wire type {kind}")
        yield number, value


def metric(data):
    found = {}
    for number, value in fields(data):
        if number == 1:
            found["name"] = value.decode()
        elif number == 2:
            found["alias"] = value
        elif number == 3:
            found["timestamp"] = value
        elif number == 4:
            found["dataType"] = DataType(value).name
        elif number == 5:
            found["is_historical"] = bool(value)
        elif number == 7:
            found["is_null"] = bool(value)
        elif number == 14:
            found["value"] = bool(value)
        elif number == 15:
            found["value"] = value.decode()
        elif number in (10, 11, 12, 13):
            found["value"] = value
    return found


def payload(data):
    found = {"metrics": []}
    for number, value in fields(data):
        if number == 1:
            found["timestamp"] = value
        elif number == 2:
            found["metrics"].append(metric(value))
        elif number == 3:
            found["seq"] = value
    return found


class Client(PahoMqttClient):
    """Reads protobuf, and gives data the types of the births."""

    def __init__(self, config):
        super().__init__(config, JsonEncoder())
        self.types = {}

    async def deliver_message(self):
        while True:
            message = await anext(self._client.messages)
            topic = message.topic.value
            if topic.split("/")[2] not in Message._CONTENTS:
                continue
            found = payload(message.payload)
            for one in found["metrics"]:
                if "dataType" in one and "alias" in one:
                    self.types[one["alias"]] = one["dataType"]
                elif "alias" in one:
                    one["dataType"] = self.types[one["alias"]]
            return Message.from_payload({**found, "topic": topic})


class Server:
    def __init__(self, port):
        self.config = {"hostname": "127.0.0.1", "port": port, "username": None, "password": None}

    def create_client(self):
        return Client(self.config)


class Heard:
    """What a historian would keep: births, and each result once."""

    def __init__(self, count):
        self.count, self.births, self.results = count, [], []
        self.names, self.seq, self.done = {}, None, asyncio.Event()

    async def take(self, message):
        kind, content = message.content_type, message.content
        device = (message.topic.split("/") + [None])[4]
        # What aiospb says itself of a message that was long on its way.
        if kind == "WARNING":
            return
        if kind == "NDEATH":
            self.seq = None
            return
        expected = 0 if kind == "NBIRTH" else (self.seq + 1) % 256
        assert content.seq == expected, f"{kind}: seq {content.seq}, not {expected}"
        self.seq = content.seq
        if kind.endswith("BIRTH"):
            self.births.append(kind if device is None else f"{kind} {device}")
            self.names.update({one.alias: one.name for one in content.metrics})
        elif kind == "DDATA":
            values = {self.names[one.alias]: one.value for one in content.changes}
            found = values.get("Result/inspection_id")
            if found and found not in self.results:
                self.results.append(found)
        if len(self.results) >= self.count:
            self.done.set()


async def main(port, group, name, count):
    heard = Heard(count)
    host = HostApplication(name, Server(port), group, clock=RealClock())
    host.listen_nodes(heard.take)
    await host.establish_session()
    done = asyncio.create_task(heard.done.wait())
    first, _ = await asyncio.wait({done, host._listen_nodes}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    if done not in first:
        if host._listen_nodes in first:
            host._listen_nodes.result()
        sys.exit(f"{len(heard.results)} of {count} results in {PATIENCE_S} s; births {heard.births}")
    await host.terminate_session()
    print(json.dumps({"births": heard.births, "results": heard.results}))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
