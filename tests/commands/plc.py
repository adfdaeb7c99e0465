"""A PLC's program on pymodbus: three parts through the handshake, and what the server refuses.

plc.py MAP.json PORT, where MAP.json is what `inspectd modbus-map --json` prints. Prints one JSON object.
"""

import json
import sys
import time

from pymodbus.client import ModbusTcpClient

PATIENCE_S = 120

with open(sys.argv[1], encoding="utf-8") as file:
    MAP = json.load(file)
REGISTERS = {row["name"]: row for row in MAP["registers"]}
STATUS = {row["name"]: 1 << row["bit"] for row in MAP["status_bits"]}
CONTROL = {row["name"]: 1 << row["bit"] for row in MAP["control_bits"]}
TYPES = {"u16": "UINT16", "bits": "UINT16", "u32": "UINT32", "ascii": "STRING"}

client = ModbusTcpClient("127.0.0.1", port=int(sys.argv[2]), timeout=20)
assert client.connect()


def read(name):
    row = REGISTERS[name]
    answer = client.read_holding_registers(row["address"], count=row["words"], device_id=1)
    assert not answer.isError(), answer
    kind = client.DATATYPE[TYPES[row["kind"]]]
    value = client.convert_from_registers(answer.registers, kind, word_order="big")
    return value.strip("\0 ") if isinstance(value, str) else value


def write(name, values):
    answer = client.write_registers(REGISTERS[name]["address"], values, device_id=1)
    assert not answer.isError(), answer


def control(*bits):
    write("control", [sum(CONTROL[bit] for bit in bits)])


def until(bit, stands):
    began = time.monotonic()
    while bool(read("status") & STATUS[bit]) != stands:
        assert time.monotonic() - began < PATIENCE_S, f"{bit} is not {stands}"
        time.sleep(0.005)


def inspect(part_id):
    until("ready", True)
    text = part_id.ljust(2 * REGISTERS["part_id"]["words"])
    write("part_id", client.convert_to_registers(text, client.DATATYPE.STRING))
    control("enable", "trigger")
    until("trigger_ack", True)
    count = read("trigger_count")
    control("enable")
    until("result_valid", True)
    assert read("result_trigger") == count
    assert read("verdict") in (1, 2, 3)
    assert len(read("inspection_id")) == 26
    part = read("part_id_echo")
    control("enable", "result_ack")
    until("result_valid", False)
    control("enable")
    return part


control("enable")
parts = [inspect(f"PY{n}") for n in (1, 2, 3)]
refused = [
    client.read_coils(0, count=1, device_id=1),
    client.write_register(0, 1, device_id=1),
    client.write_register(REGISTERS["control"]["address"], 0x8000, device_id=1),
]
print(json.dumps({
    "parts": parts,
    "epoch": read("epoch"),
    "exceptions": [answer.exception_code for answer in refused],
}))
