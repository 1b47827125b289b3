"""Event logs of Windows, as loggers and what merges their files write them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from uuid import UUID

from support.synth.xpress import compress

_IMAGE_ID = UUID("b3e675d7-2554-4f18-830b-2762732560de")
_PROVIDERS = {
    "runtime": UUID("e13c0d23-ccbc-4e12-931b-d9cc2eee27e4"),
    "rundown": UUID("a669021c-c450-4609-a035-5af59af4df18"),
}
_KERNEL_KINDS = {
    ("whole", 4): 1,
    ("whole", 8): 2,
    ("compact", 4): 3,
    ("compact", 8): 4,
    ("perf", 4): 16,
    ("perf", 8): 17,
}
_NIL = UUID(int=0)
_STARTED = 132_404_547_797_984_230


def utf16(text: str) -> bytes:
    return text.encode("utf-16-le") + b"\0\0"


def kernel_event(
    group: int, opcode: int, payload: bytes, *, version: int = 2, header: str = "perf", width: int = 8
) -> bytes:
    """Return an event of the kernel; *header* is ``whole``, ``compact`` or ``perf``."""
    kind = _KERNEL_KINDS[header, width]
    rest = {"whole": 24, "compact": 16, "perf": 8}[header]
    size = 8 + rest + len(payload)
    return struct.pack("<HBBHBB", version, kind, 0xC0, size, opcode, group) + bytes(rest) + payload


def classic_event(guid: UUID, opcode: int, payload: bytes, *, width: int = 8, process: int = 0) -> bytes:
    kind = 0x14 if width == 8 else 0x0A
    head = struct.pack("<HBBBBHIIQ", 48 + len(payload), kind, 0xC0, opcode, 0, 2, 4, process, 77)
    return head + guid.bytes_le + bytes(8) + payload


def manifest_event(
    guid: UUID, number: int, payload: bytes, *, version: int = 2, process: int = 0, width: int = 8, extended: int = 0
) -> bytes:
    """Return an event of a provider with a manifest, behind so many items of *extended* data."""
    kind = 0x13 if width == 8 else 0x12
    items = b""
    for item in range(extended):
        addresses = struct.pack("<4Q", 1, 2, 3, 4)
        items += struct.pack("<HHHH", 8 + len(addresses), 6, int(item + 1 < extended), len(addresses)) + addresses
    head = struct.pack("<HBBHHIIQ", 80 + len(items) + len(payload), kind, 0xC0, int(extended > 0), 0, 4, process, 77)
    descriptor = struct.pack("<HBBBBHQ", number, version, 0, 4, 0, 0, 8)
    return head + guid.bytes_le + descriptor + bytes(24) + items + payload


def image_load(
    process: int, base: int, size: int, path: str, *, stamp: int = 0, opcode: int = 3, width: int = 8, version: int = 2
) -> bytes:
    """Return the kernel's event of a load (10), unload (2) or rundown (3, 4)."""
    pointer = "Q" if width == 8 else "I"
    payload = struct.pack(f"<{pointer}{pointer}", base, size)
    if version >= 2:
        payload += struct.pack(f"<IIII{pointer}16x", process, 0xABCDE, stamp, 0, base)
    elif version == 1:
        payload += struct.pack("<I", process)
    return kernel_event(0x14, opcode, payload + utf16(path), version=version, width=width, header="whole")


def process_event(
    process: int, name: str, *, opcode: int = 3, width: int = 8, version: int = 4, sid: bool = True
) -> bytes:
    pointer = "Q" if width == 8 else "I"
    payload = struct.pack(f"<{pointer}IIIi", 0x1234, process, 4, 1, 0)
    if version >= 3:
        payload += struct.pack(f"<{pointer}", 0x187000)
    if version >= 4:
        payload += struct.pack("<I", 0)
    if sid:
        payload += (
            struct.pack(f"<{pointer}{pointer}", 0xFFFF8000, 0) + bytes.fromhex("010200000000000520000000") + bytes(4)
        )
    else:
        payload += bytes(4)
    payload += name.encode() + b"\0" + utf16(f'"{name}" --flag')
    return kernel_event(0x03, opcode, payload, version=version, width=width)


def thread_event(process: int, thread: int, *, opcode: int = 3) -> bytes:
    return kernel_event(0x05, opcode, struct.pack("<II", process, thread) + bytes(64), version=3, header="whole")


def sample(thread: int, address: int, *, width: int = 8) -> bytes:
    return kernel_event(0x0F, 46, struct.pack("<QIHH" if width == 8 else "<IIHH", address, thread, 1, 0), width=width)


def stack(process: int, thread: int, addresses: list[int]) -> bytes:
    return kernel_event(0x18, 32, struct.pack(f"<QII{len(addresses)}Q", 77, process, thread, *addresses))


def stack_key(process: int, key: int, *, opcode: int = 36) -> bytes:
    return kernel_event(0x18, opcode, struct.pack("<QIIQ", 77, process, 1, key))


def stack_definition(key: int, addresses: list[int], *, opcode: int = 38) -> bytes:
    return kernel_event(0x18, opcode, struct.pack(f"<Q{len(addresses)}Q", key, *addresses))


@dataclass(frozen=True)
class TracedImage:
    """An image of a process and what merging finds in its file."""

    process: int
    base: int
    size: int
    stamp: int
    name: str
    pdb: str | None = None
    guid: UUID = _NIL
    age: int = 1
    il_pdb: str | None = None
    il_guid: UUID = _NIL
    portable: tuple[bool, ...] = ()  # of each code view record, that of the IL first
    version: dict[str, str] = field(default_factory=dict)
    path: str | None = None


_TEXTS = (
    "original",
    "description",
    "file",
    "binary",
    "language",
    "product",
    "company",
    "product_version",
    "id",
    "program",
)


def merged_events(image: TracedImage, *, width: int = 8) -> list[bytes]:
    """Return the events that merging adds for one image."""
    pointer = "Q" if width == 8 else "I"
    events = []

    def add(opcode: int, payload: bytes) -> None:
        events.append(classic_event(_IMAGE_ID, opcode, payload, width=width, process=image.process))

    if image.version:
        texts = {"original": image.name, **image.version}
        add(64, struct.pack("<II", image.size, image.stamp) + b"".join(utf16(texts.get(name, "")) for name in _TEXTS))
    add(
        0, struct.pack(f"<{pointer}{pointer}II", image.base, image.size, image.process, image.stamp) + utf16(image.name)
    )
    where = struct.pack(f"<{pointer}I", image.base, image.process)
    if image.il_pdb is not None:
        add(37, where + image.il_guid.bytes_le + struct.pack("<I", 1) + image.il_pdb.encode() + b"\0")
    if image.pdb is not None:
        add(36, where + image.guid.bytes_le + struct.pack("<I", image.age) + image.pdb.encode() + b"\0")
    elif image.il_pdb is None:
        add(32, where)
    for is_portable in image.portable:
        add(38, where + struct.pack("<IHH", image.stamp, 0x100, 0x504D if is_portable else 0))
    return events


def managed_module(
    process: int,
    il_path: str,
    *,
    provider: str = "rundown",
    number: int = 153,
    version: int = 2,
    module: int = 0x7FF0,
    native_path: str = "",
    il: tuple[UUID, int, str] | None = None,
    native: tuple[UUID, int, str] | None = None,
    extended: int = 0,
    width: int = 8,
) -> bytes:
    payload = managed_payload(module, il_path, native_path, il, native, version)
    return manifest_event(
        _PROVIDERS[provider], number, payload, version=version, process=process, width=width, extended=extended
    )


def managed_payload(
    module: int,
    il_path: str,
    native_path: str = "",
    il: tuple[UUID, int, str] | None = None,
    native: tuple[UUID, int, str] | None = None,
    version: int = 2,
) -> bytes:
    payload = struct.pack("<QQII", module, 0x1000, 8, 0) + utf16(il_path) + utf16(native_path)
    if version >= 1:
        payload += struct.pack("<H", 11)
    if version >= 2:
        for guid, age, path in (il or (UUID(int=0), 0, ""), native or (UUID(int=0), 0, "")):
            payload += guid.bytes_le + struct.pack("<I", age) + utf16(path)
    return payload


def log_header(*, width: int = 8, build: int = 19041, lost: int = 0, buffers: int = 2) -> bytes:
    """Return the first event of a log."""
    payload = struct.pack(
        "<IBBBBIIQIIIIIIII",
        65536,
        10,
        0,
        2,
        5,
        build,
        4,
        _STARTED + 10**8,
        156250,
        0,
        0x10001,
        buffers,
        1,
        width,
        lost,
        2400,
    )
    payload += bytes(2 * width + 172)
    payload += bytes(-len(payload) % 8) + struct.pack("<QQQII", _STARTED - 10**9, 10**7, _STARTED, 1, 3)
    return kernel_event(0, 0, payload + utf16("logger") + utf16("x.etl"), header="whole", width=width)


def buffer(events: list[bytes], *, size: int = 65536, packed: bool = False, type_: int = 0, flags: int = 0x20) -> bytes:
    """Return a buffer of *size* bytes with *events*; one that is *packed* is as long as it has to be."""
    body = b"".join(event + bytes(-len(event) % 8) for event in events)
    used = 72 + len(body)
    if packed:
        content, flags = compress(body), flags | 0x40
        size = 72 + len(content)
    else:
        assert used <= size, "the events do not fit"
        content = body + b"\xff" * (size - used)
    head = struct.pack("<IIIIQQQIIIHH16x", size, used, used, 0, 1, 2, 3, 7, 3, used, flags, type_)
    return head + content


def build_etl(
    events: list[bytes], *, width: int = 8, packed: bool = False, size: int = 65536, build: int = 19041, lost: int = 0
) -> bytes:
    """Return a log of *events*, in buffers of *size* bytes."""
    buffers: list[list[bytes]] = [[]]
    room = size - 72
    for event in events:
        length = len(event) + -len(event) % 8
        if length > room:
            buffers.append([])
            room = size - 72
        buffers[-1].append(event)
        room -= length
    head = log_header(width=width, build=build, lost=lost, buffers=1 + len(buffers))
    first = buffer([head], size=512 if packed else size, type_=4, flags=1)
    return first + b"".join(buffer(each, size=size, packed=packed) for each in buffers)
