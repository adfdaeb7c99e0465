"""What a plant has around a station: a SCADA host, a client of OPC UA, the program of a PLC; each says what it was told.

    plant.py sparkplug PORT GROUP HOST                    aiospb
    plant.py opcua URL CAMERA...                          asyncua
    plant.py modbus MAP.json PORT UNIT NAME COUNT PACE_S  pymodbus: triggers COUNT parts NAME1, NAME2, ...

Each line is one JSON object: {"id": of the inspection, "camera": where it is known, "part": its id, "verdict": pass, fail or
review}. asyncua also says {"watching": true} whenever it has subscribed. The PLC also says {"accepted": PART} when its trigger is acknowledged, and {"missed": PART} when the station was
started anew before the result was fetched. The first two end when they are told to; the PLC ends with its parts.
"""

import asyncio
import contextlib
import json
import logging
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path += [str(TESTS / "common"), str(TESTS / "mqtt")]
# Nothing on this machine takes longer, however busy it is.
PATIENCE_S = 120
# Results that a client of OPC UA asks for when it is back.
MISSED_MAX = 100


def say(**fields):
    print(json.dumps(fields), flush=True)


async def sparkplug(port, group, name):
    from aiospb import RealClock
    from aiospb.hosts import HostApplication
    from sparkplug_host import Server

    names, seq = {}, None

    async def take(message):
        nonlocal seq
        kind, content = message.content_type, message.content
        if kind == "WARNING":
            return
        if kind == "NDEATH":
            seq = None
            return
        expected = 0 if kind == "NBIRTH" else (seq + 1) % 256
        assert content.seq == expected, f"{kind}: seq {content.seq}, not {expected}"
        seq = content.seq
        if kind.endswith("BIRTH"):
            names.update({one.alias: one.name for one in content.metrics})
        elif kind == "DDATA":
            values = {names[one.alias]: one.value for one in content.changes}
            if values.get("Result/inspection_id"):
                found = {key: values["Result/" + key] for key in ("inspection_id", "camera", "part_id", "verdict")}
                say(id=found["inspection_id"], camera=found["camera"], part=found["part_id"], verdict=found["verdict"])

    host = HostApplication(name, Server(int(port)), group, clock=RealClock())
    host.listen_nodes(take)
    await host.establish_session()
    await host._listen_nodes


def result(camera, found):
    from asyncua import ua

    content = [value.Value if isinstance(value, ua.Variant) else value for value in found.ResultContent]
    part = found.PartId.Id if found.PartId else None
    say(id=found.ResultId.Id, camera=camera, part=part, verdict=content[0])


class Watcher:
    """What a subscription brings: results as events, and as the newest result of each camera."""

    def event_notification(self, event):
        result(event.SourceName, event)

    def datachange_notification(self, node, value, data):
        # The item of events has no value; the newest result has none before the first.
        if value is not None:
            result(node.nodeid.Identifier.split(".")[0], value)

    def status_change_notification(self, status):
        pass


async def watch(url, cameras):
    """One connection, until it is lost."""
    from asyncua import ua
    from opcua_client import Cell, of_type

    lost = asyncio.Event()

    async def end(why):
        lost.set()

    cell = Cell(url)
    cell.client.connection_lost_callback = end
    try:
        await cell.__aenter__()
        subscription = await cell.client.create_subscription(100, Watcher())
        ready = cell.client.get_node(ua.NodeId(1024, cell.vision))
        server = cell.client.nodes.server
        await subscription.subscribe_events(server, ready, await of_type(ready), queuesize=1000)
        for camera in cameras:
            await subscription.subscribe_data_change(cell.node(camera, "ResultManagement.Results.Newest"))
            # What it has missed, it asks for.
            for found in await cell.results_of(camera, most=MISSED_MAX):
                result(camera, found)
        say(watching=True)
        await lost.wait()
    finally:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(cell.client.disconnect(), 2)


async def opcua(url, *cameras):
    from asyncua import ua
    from opcua_client import Cell  # noqa: F401, it sets the level of the log

    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    while True:
        with contextlib.suppress(OSError, asyncio.TimeoutError, ua.UaStatusCodeError):
            await watch(url, cameras)
        await asyncio.sleep(0.05)


class Lost(Exception):
    """The station was started anew, or is away."""


class Plc:
    """The program: it knows the station by its registers, as `inspectd modbus-map` prints them."""

    KINDS = {"u16": "UINT16", "bits": "UINT16", "u32": "UINT32", "ascii": "STRING"}
    VERDICTS = {1: "pass", 2: "fail", 3: "review"}

    def __init__(self, file, port, unit):
        described = json.loads(Path(file).read_text(encoding="utf-8"))
        self.registers = {row["name"]: row for row in described["registers"]}
        self.bits = {row["name"]: 1 << row["bit"] for row in described["status_bits"] + described["control_bits"]}
        ends = (row["address"] + row["words"] for row in described["registers"] if row["address"] < 200)
        self.port, self.unit, self.block = int(port), int(unit), max(ends)
        self.client = self.epoch = None

    def asked(self, answer):
        if answer.isError():
            raise Lost(str(answer))
        return answer

    def image(self):
        """All words of the station, read in one frame."""
        words = self.asked(self.client.read_holding_registers(0, count=self.block, device_id=self.unit)).registers
        found = {}
        for name, row in self.registers.items():
            if row["address"] < 200:
                own = words[row["address"] : row["address"] + row["words"]]
                kind = self.client.DATATYPE[self.KINDS[row["kind"]]]
                value = self.client.convert_from_registers(own, kind, word_order="big")
                found[name] = value.strip("\0 ") if isinstance(value, str) else value
        if self.epoch is not None and found["epoch"] != self.epoch:
            raise Lost("another epoch")
        return found

    def write(self, name, words):
        self.asked(self.client.write_registers(self.registers[name]["address"], words, device_id=self.unit))

    def control(self, *bits):
        self.write("control", [sum(self.bits[bit] for bit in bits)])

    def until(self, bit, stands):
        ends = time.monotonic() + PATIENCE_S
        while True:
            image = self.image()
            if bool(image["status"] & self.bits[bit]) == stands:
                return image
            assert time.monotonic() < ends, f"{bit} is not {stands}: {image}"
            time.sleep(0.01)

    def connect(self):
        """A connection that commands, and begins with nothing."""
        from pymodbus.client import ModbusTcpClient
        from pymodbus.exceptions import ModbusException

        ends = time.monotonic() + PATIENCE_S
        while True:
            try:
                if self.client:
                    self.client.close()
                self.client, self.epoch = ModbusTcpClient("127.0.0.1", port=self.port, timeout=20, retries=0), None
                if self.client.connect():
                    self.epoch = self.until("online", True)["epoch"]
                    self.control("reset")
                    self.until("reset_ack", True)
                    self.control("enable")
                    self.until("enabled", True)
                    return
            except (Lost, OSError, ModbusException):
                pass
            assert time.monotonic() < ends, "the station is away"
            time.sleep(0.05)

    def trigger(self, part):
        text = part.ljust(2 * self.registers["part_id"]["words"])
        self.write("part_id", self.client.convert_to_registers(text, self.client.DATATYPE.STRING))
        self.control("enable", "trigger")
        count = self.until("trigger_ack", True)["trigger_count"]
        say(accepted=part)
        self.control("enable")
        return count

    def fetch(self, part, count):
        image = self.until("result_valid", True)
        assert (image["result_trigger"], image["part_id_echo"]) == (count, part), f"{part}, {count}: {image}"
        # One that is late has no inspection.
        say(id=image["inspection_id"] or None, part=part, verdict=self.VERDICTS[image["verdict"]])
        self.control("enable", "result_ack")
        self.until("result_valid", False)
        self.control("enable")


def modbus(file, port, unit, name, count, pace_s):
    from pymodbus.exceptions import ModbusException

    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
    plc = Plc(file, port, unit)
    plc.connect()
    for number in range(1, int(count) + 1):
        began, part, asked = time.monotonic(), f"{name}{number}", False
        while True:
            try:
                plc.until("ready", True)
                asked = True
                plc.fetch(part, plc.trigger(part))
                break
            except (Lost, OSError, ModbusException):
                plc.connect()
                # One that may have been triggered is not triggered again.
                if asked:
                    say(missed=part)
                    break
        time.sleep(max(0, began + float(pace_s) - time.monotonic()))


if __name__ == "__main__":
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "modbus":
        modbus(*arguments)
    else:
        asyncio.run({"sparkplug": sparkplug, "opcua": opcua}[command](*arguments))
