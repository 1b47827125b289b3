"""A Windows machine that says of its drivers and processes what a table holds."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from symcache.formats.view import BytesView
from symcache.inputs.live import LoadedImage, Places, RunningProcess

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from symcache.formats.view import ByteView

__all__ = ["PLACES", "Machine", "Opened"]

PLACES = Places("C:\\Windows", {"\\Device\\HarddiskVolume1": "D:", "\\Device\\HarddiskVolume3": "C:"})


@dataclass
class Opened:
    """A process with these images in its memory."""

    memory: Mapping[int, bytes]
    listed: Sequence[LoadedImage] | OSError
    executable: str | None = "C:\\app\\app.exe"
    bits: int = 64
    is_closed: bool = False

    def images(self) -> Sequence[LoadedImage]:
        if isinstance(self.listed, OSError):
            raise self.listed
        return self.listed

    def read(self, address: int, length: int) -> bytes:
        for base, data in self.memory.items():
            if base <= address and address + length <= base + len(data):
                return data[address - base : address - base + length]
        raise OSError(299, "Only part of a ReadProcessMemory request was completed")

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Machine:
    """What Windows would say, from tables."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    loaded: Sequence[LoadedImage] | OSError = ()
    opened: Mapping[int, Opened | OSError] = field(default_factory=dict)
    running: Sequence[RunningProcess] = ()
    places: Places = PLACES

    def details(self) -> dict[str, Any]:
        return {"version": "10.0.19045", "build": 19045, "machine": "x64"}

    def drivers(self) -> Sequence[LoadedImage]:
        if isinstance(self.loaded, OSError):
            raise self.loaded
        return self.loaded

    def processes(self) -> Sequence[RunningProcess]:
        return self.running

    def open_process(self, process_id: int) -> Opened:
        opened = self.opened[process_id]
        if isinstance(opened, OSError):
            raise opened
        return opened

    def open_file(self, path: str) -> AbstractContextManager[ByteView]:
        if path not in self.files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return nullcontext(BytesView(self.files[path]))
