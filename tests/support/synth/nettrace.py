"""Traces of .NET's EventPipe, versions 4 to 6, with whole and with packed headers of events."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from support.synth.etl import utf16

_TIME = struct.pack("<8H", 2024, 5, 2, 7, 10, 30, 15, 0)


def varuint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _short(text: str) -> bytes:
    return varuint(len(text.encode())) + text.encode()


def text16(text: str) -> bytes:
    return struct.pack("<H", len(text.encode())) + text.encode()


@dataclass(frozen=True)
class Kind:
    """A kind of event: what a row of metadata says."""

    row: int
    provider: str
    number: int
    name: str = ""
    version: int = 2


@dataclass(frozen=True)
class TracedEvent:
    row: int
    payload: bytes
    thread: int = 1
    stack: int = 0


class NettraceWriter:
    """Writes the blocks of one trace, one behind the other."""

    def __init__(self, version: int = 5, *, process: int = 4711, packed: bool = True, width: int = 8) -> None:
        self.version = version
        self.packed = packed
        self.out = bytearray(b"Nettrace")
        if version >= 6:
            self.out += struct.pack("<III", 0, version, 0)
            pairs = _short("ProcessId") + _short(str(process)) + _short("HardwareThreadCount") + _short("8")
            self._block(1, _TIME + struct.pack("<QQII", 1, 10**7, width, 2) + pairs)
        else:
            self.out += struct.pack("<I", 20) + b"!FastSerialization.1"
            self.out += self._object_head("Trace", version) + _TIME
            self.out += struct.pack("<QQIIII", 1, 10**7, width, process, 8, 0) + b"\6"

    def _object_head(self, name: str, version: int = 2) -> bytes:
        return b"\5\5\1" + struct.pack("<III", version, version, len(name)) + name.encode() + b"\6"

    def _block(self, kind: int, content: bytes) -> None:
        if self.version >= 6:
            self.out += struct.pack("<I", len(content) | kind << 24) + content
            return
        name = {2: "EventBlock", 3: "MetadataBlock", 4: "SPBlock", 5: "StackBlock"}[kind]
        self.out += self._object_head(name) + struct.pack("<I", len(content))
        self.out += bytes(-len(self.out) % 4) + content + b"\6"

    def _event_rows(self, events: list[TracedEvent], *, metadata: bool = False) -> bytes:
        is_new = self.version >= 6
        out = bytearray(struct.pack("<HHQQ", 20, int(self.packed), 5, 9))
        for number, event in enumerate(events):
            if not self.packed:
                tail = struct.pack("<I", 0) if is_new else bytes(32)
                row = event.row | 0x80000000
                head = struct.pack("<IIQQIIQ", row, number, event.thread, 1, 0, event.stack, 7) + tail
                head += struct.pack("<I", len(event.payload))
                out += struct.pack("<I", len(head) + len(event.payload)) + head + event.payload
                if not is_new:
                    out += bytes(-len(out) % 4)
                continue
            flags = 1 | 4 | 8 | 64 | 128 | (0 if metadata else 2) | (16 if number % 2 else 0)
            flags |= 0 if is_new or number % 3 else 32
            out.append(flags)
            out += varuint(event.row)
            if flags & 2:
                out += varuint(number) + varuint(300) + varuint(2)
            out += varuint(event.thread) + varuint(event.stack) + varuint(12345)
            if flags & 16:
                out += varuint(200) if is_new else bytes(16)
            if flags & 32:
                out += bytes(16)
            out += varuint(len(event.payload)) + event.payload
        return bytes(out)

    def metadata(self, kinds: list[Kind]) -> None:
        if self.version >= 6:
            rows = b""
            for kind in kinds:
                row = varuint(kind.row) + _short(kind.provider) + varuint(kind.number) + _short(kind.name)
                row += struct.pack("<HH", 0, 0) + b"more"
                rows += struct.pack("<H", len(row)) + row
            self._block(3, struct.pack("<H", 3) + b"abc" + rows)
            return
        events = []
        for kind in kinds:
            payload = struct.pack("<I", kind.row) + utf16(kind.provider) + struct.pack("<I", kind.number)
            payload += utf16(kind.name) + struct.pack("<QIII", 8, kind.version, 4, 0)
            events.append(TracedEvent(0, payload, thread=0))
        self._block(3, self._event_rows(events, metadata=True))

    def events(self, events: list[TracedEvent]) -> None:
        self._block(2, self._event_rows(events))

    def stacks(self, first: int, stacks: list[list[int]], *, width: int = 8) -> None:
        content = struct.pack("<II", first, len(stacks))
        for addresses in stacks:
            content += struct.pack(
                f"<I{len(addresses)}{'Q' if width == 8 else 'I'}", width * len(addresses), *addresses
            )
        self._block(5, content)

    def threads(self, processes: dict[int, int]) -> None:
        content = b""
        for thread, process in processes.items():
            row = varuint(thread) + b"\1" + _short("worker") + b"\2" + varuint(process) + b"\3" + varuint(77)
            row += b"\4" + _short("key") + _short("value")
            content += struct.pack("<H", len(row)) + row
        self._block(6, content)

    def sequence_point(self, *, flags: int = 0) -> None:
        self._block(4, struct.pack("<QII", 9, flags, 0) if self.version >= 6 else struct.pack("<QI", 9, 0))

    def unknown(self) -> None:
        """Write a block of a kind that no version has yet."""
        if self.version >= 6:
            self._block(77, b"something new")
        else:
            self.out += self._object_head("NewBlock") + struct.pack("<I", 8)
            self.out += bytes(-len(self.out) % 4) + b"new data\6"

    def finish(self) -> bytes:
        return bytes(self.out) + (bytes(4) if self.version >= 6 else b"\1")
