"""What Windows says of its drivers and processes, by its own functions."""

from __future__ import annotations

import sys

assert sys.platform == "win32"

import ctypes  # noqa: E402
from ctypes import wintypes  # noqa: E402
from functools import cached_property  # noqa: E402
from typing import TYPE_CHECKING, Any, Final  # noqa: E402

from symcache.formats.pe.image import MACHINE_OF_PROCESSOR, machine_name  # noqa: E402
from symcache.formats.view import FileView  # noqa: E402
from symcache.inputs.live import LoadedImage, Places, RunningProcess  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Windows"]

_LENGTH_MISMATCH = 0xC0000004
_INVALID_CLASS = 0xC0000003
_MODULES, _MODULES_EX = 11, 77
_MOST_TRIES = 8
_LARGEST_LIST_BYTES = 64 << 20
_MOST_PROCESSES = 1 << 20
_MOST_MODULES = 1 << 17
_LONGEST_PATH = 1 << 15
_ALL_MODULES = 3
_SNAPSHOT_OF_PROCESSES = 2
_QUERY, _READ, _QUERY_LIMITED = 0x400, 0x10, 0x1000
_ADJUST_PRIVILEGES, _ENABLED = 0x20, 2
_INVALID_HANDLE = ctypes.c_void_p(-1).value

_TEXT = "mbcs"  # the kernel hands out names of drivers in the code page of the system

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_advapi32 = ctypes.WinDLL("advapi32", use_last_error=True)
_ntdll = ctypes.WinDLL("ntdll")


class _DriverInformation(ctypes.Structure):
    """``RTL_PROCESS_MODULE_INFORMATION``."""

    _fields_ = (
        ("section", ctypes.c_void_p),
        ("mapped_base", ctypes.c_void_p),
        ("image_base", ctypes.c_void_p),
        ("image_size", wintypes.ULONG),
        ("flags", wintypes.ULONG),
        ("load_order", wintypes.USHORT),
        ("init_order", wintypes.USHORT),
        ("load_count", wintypes.USHORT),
        ("name_offset", wintypes.USHORT),
        ("path", ctypes.c_char * 256),
    )


class _DriverList(ctypes.Structure):
    """``RTL_PROCESS_MODULES``; only where its first entry begins matters."""

    _fields_ = (("count", wintypes.ULONG), ("first", _DriverInformation))


class _DriverInformationEx(ctypes.Structure):
    """``RTL_PROCESS_MODULE_INFORMATION_EX``."""

    _fields_ = (
        ("next_offset", wintypes.USHORT),
        ("base_info", _DriverInformation),
        ("checksum", wintypes.ULONG),
        ("stamp", wintypes.ULONG),
        ("default_base", ctypes.c_void_p),
    )


class _ProcessEntry(ctypes.Structure):
    """``PROCESSENTRY32W``."""

    _fields_ = (
        ("size", wintypes.DWORD),
        ("usage", wintypes.DWORD),
        ("process_id", wintypes.DWORD),
        ("default_heap", ctypes.c_size_t),
        ("module_id", wintypes.DWORD),
        ("threads", wintypes.DWORD),
        ("parent_id", wintypes.DWORD),
        ("priority", wintypes.LONG),
        ("flags", wintypes.DWORD),
        ("name", wintypes.WCHAR * 260),
    )


class _ModuleInfo(ctypes.Structure):
    """``MODULEINFO``."""

    _fields_ = (("base", ctypes.c_void_p), ("size", wintypes.DWORD), ("entry_point", ctypes.c_void_p))


class _SystemInfo(ctypes.Structure):
    """``SYSTEM_INFO``; the machine is its first field."""

    _fields_ = (("processor", wintypes.WORD), ("rest", ctypes.c_byte * 62))


class _Privileges(ctypes.Structure):
    """``TOKEN_PRIVILEGES`` with one."""

    _pack_ = 4
    _fields_ = (("count", wintypes.DWORD), ("luid", wintypes.LARGE_INTEGER), ("attributes", wintypes.DWORD))


_ntdll.NtQuerySystemInformation.argtypes = (
    ctypes.c_int,
    ctypes.c_void_p,
    wintypes.ULONG,
    ctypes.POINTER(wintypes.ULONG),
)
_ntdll.NtQuerySystemInformation.restype = wintypes.ULONG
_SIGNATURES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "CloseHandle": (wintypes.BOOL, (wintypes.HANDLE,)),
    "CreateToolhelp32Snapshot": (wintypes.HANDLE, (wintypes.DWORD, wintypes.DWORD)),
    "GetCurrentProcess": (wintypes.HANDLE, ()),
    "GetLogicalDrives": (wintypes.DWORD, ()),
    "GetNativeSystemInfo": (None, (ctypes.POINTER(_SystemInfo),)),
    "GetSystemWindowsDirectoryW": (wintypes.UINT, (wintypes.LPWSTR, wintypes.UINT)),
    "IsWow64Process": (wintypes.BOOL, (wintypes.HANDLE, ctypes.POINTER(wintypes.BOOL))),
    "K32EnumProcessModulesEx": (
        wintypes.BOOL,
        (wintypes.HANDLE, ctypes.c_void_p, wintypes.DWORD, ctypes.POINTER(wintypes.DWORD), wintypes.DWORD),
    ),
    "K32GetMappedFileNameW": (
        wintypes.DWORD,
        (wintypes.HANDLE, ctypes.c_void_p, wintypes.LPWSTR, wintypes.DWORD),
    ),
    "K32GetModuleFileNameExW": (
        wintypes.DWORD,
        (wintypes.HANDLE, ctypes.c_void_p, wintypes.LPWSTR, wintypes.DWORD),
    ),
    "K32GetModuleInformation": (
        wintypes.BOOL,
        (wintypes.HANDLE, ctypes.c_void_p, ctypes.POINTER(_ModuleInfo), wintypes.DWORD),
    ),
    "OpenProcess": (wintypes.HANDLE, (wintypes.DWORD, wintypes.BOOL, wintypes.DWORD)),
    "Process32FirstW": (wintypes.BOOL, (wintypes.HANDLE, ctypes.POINTER(_ProcessEntry))),
    "Process32NextW": (wintypes.BOOL, (wintypes.HANDLE, ctypes.POINTER(_ProcessEntry))),
    "QueryDosDeviceW": (wintypes.DWORD, (wintypes.LPCWSTR, wintypes.LPWSTR, wintypes.DWORD)),
    "QueryFullProcessImageNameW": (
        wintypes.BOOL,
        (wintypes.HANDLE, wintypes.DWORD, wintypes.LPWSTR, ctypes.POINTER(wintypes.DWORD)),
    ),
    "ReadProcessMemory": (
        wintypes.BOOL,
        (wintypes.HANDLE, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)),
    ),
}
for _name, (_result, _arguments) in _SIGNATURES.items():
    getattr(_kernel32, _name).restype = _result
    getattr(_kernel32, _name).argtypes = _arguments
_advapi32.OpenProcessToken.argtypes = (wintypes.HANDLE, wintypes.DWORD, ctypes.POINTER(wintypes.HANDLE))
_advapi32.LookupPrivilegeValueW.argtypes = (
    wintypes.LPCWSTR,
    wintypes.LPCWSTR,
    ctypes.POINTER(wintypes.LARGE_INTEGER),
)
_advapi32.AdjustTokenPrivileges.argtypes = (
    wintypes.HANDLE,
    wintypes.BOOL,
    ctypes.POINTER(_Privileges),
    wintypes.DWORD,
    ctypes.c_void_p,
    ctypes.c_void_p,
)


class Windows:
    """This machine. See `symcache.inputs.live.System`.

    Who may debug other users' processes does so: the privilege is switched on for this process, as debuggers do.
    """

    def __init__(self) -> None:
        _enable_debugging()

    @cached_property
    def places(self) -> Places:
        root = ctypes.create_unicode_buffer(_LONGEST_PATH)
        _kernel32.GetSystemWindowsDirectoryW(root, len(root))
        return Places(root.value or "C:\\Windows", dict(_devices()), _is_wow64(_kernel32.GetCurrentProcess()))

    def details(self) -> Mapping[str, Any]:
        info = _SystemInfo()
        _kernel32.GetNativeSystemInfo(ctypes.byref(info))
        major, minor, build = sys.getwindowsversion().platform_version  # of what runs, no pretence
        return {
            "version": f"{major}.{minor}.{build}",
            "build": build,
            "machine": machine_name(MACHINE_OF_PROCESSOR.get(info.processor, info.processor)),
        }

    def drivers(self) -> list[LoadedImage]:
        """Return what the kernel has loaded.

        ``EnumDeviceDrivers`` and ``GetDeviceDriverFileNameW`` ask for the same list, and can tell nothing of a driver
        whose address is withheld.

        Source: RTL_PROCESS_MODULES of class 11, and of class 77, since Windows Vista, a list that ends with an entry
        without a next one; wine's tests of both, which hold on Windows, too.
        """
        stamps = self._stamps()
        data = _query(_MODULES)
        start, step = _DriverList.first.offset, ctypes.sizeof(_DriverInformation)
        count = min(int.from_bytes(data[:4], "little"), (len(data) - start) // step)
        entries = (_DriverInformation.from_buffer_copy(data, start + number * step) for number in range(count))
        # A 32-bit process gets the lower half of a 64-bit address at best.
        is_whole = not self.places.is_redirected
        return [
            LoadedImage(
                entry.path.decode(_TEXT, "replace"),
                (entry.image_base or None) if is_whole else None,
                entry.image_size,
                stamps.get(entry.path, 0),
            )
            for entry in entries
        ]

    def _stamps(self) -> dict[bytes, int]:
        """Return the stamps of the drivers in memory, by their paths; nothing where Windows does not tell them."""
        try:
            data = _query(_MODULES_EX)
        except OSError:
            return {}
        stamps: dict[bytes, int] = {}
        at, size = 0, ctypes.sizeof(_DriverInformationEx)
        while at + size <= len(data):
            entry = _DriverInformationEx.from_buffer_copy(data, at)
            if entry.next_offset < size:
                break
            stamps[entry.base_info.path] = entry.stamp
            at += entry.next_offset
        return stamps

    def processes(self) -> list[RunningProcess]:
        """Return the processes of a snapshot, in its order."""
        snapshot = _kernel32.CreateToolhelp32Snapshot(_SNAPSHOT_OF_PROCESSES, 0)
        if snapshot == _INVALID_HANDLE:
            raise _last_error()
        try:
            entry = _ProcessEntry(size=ctypes.sizeof(_ProcessEntry))
            found: list[RunningProcess] = []
            more = _kernel32.Process32FirstW(snapshot, ctypes.byref(entry))
            while more and len(found) < _MOST_PROCESSES:
                found.append(RunningProcess(entry.process_id, entry.name))
                more = _kernel32.Process32NextW(snapshot, ctypes.byref(entry))
            return found
        finally:
            _kernel32.CloseHandle(snapshot)

    def open_process(self, process_id: int) -> _Opened:
        """Open a process; one that may not be read is opened so far that its executable is known."""
        handle = _kernel32.OpenProcess(_QUERY | _READ, False, process_id)
        if handle:
            return _Opened(handle, None)
        refusal = _last_error()
        handle = _kernel32.OpenProcess(_QUERY_LIMITED, False, process_id)
        if not handle:
            raise refusal
        return _Opened(handle, refusal)

    def open_file(self, path: str) -> FileView:
        return FileView(path)


class _Opened:
    """An opened process. See `symcache.inputs.live.OpenedProcess`; *refusal* is why it cannot be read."""

    def __init__(self, handle: int, refusal: OSError | None) -> None:
        self._handle = handle
        self._refusal = refusal
        self.executable = self._executable()
        info = _SystemInfo()
        _kernel32.GetNativeSystemInfo(ctypes.byref(info))
        self.bits = 32 if info.processor in {0, 5} or _is_wow64(handle) else 64

    def images(self) -> list[LoadedImage]:
        """Return the modules in the loader's order.

        A 32-bit process lists the files of its system folder below ``System32``, where another one lies, so that what
        is mapped is asked for, too.
        """
        if self._refusal is not None:
            raise self._refusal
        return [self._image(base) for base in self._bases()]

    def read(self, address: int, length: int) -> bytes:
        data = ctypes.create_string_buffer(max(length, 1))
        count = ctypes.c_size_t()
        if not _kernel32.ReadProcessMemory(self._handle, address, data, length, ctypes.byref(count)):
            raise _last_error()
        return data.raw[:length]

    def close(self) -> None:
        _kernel32.CloseHandle(self._handle)

    def _bases(self) -> list[int]:
        room = 256
        for _ in range(_MOST_TRIES):  # modules may come meanwhile
            handles = (ctypes.c_void_p * room)()
            needed = wintypes.DWORD()
            size = ctypes.sizeof(handles)
            if not _kernel32.K32EnumProcessModulesEx(self._handle, handles, size, ctypes.byref(needed), _ALL_MODULES):
                raise _last_error()
            if needed.value <= size:
                return [base for base in handles[: needed.value // ctypes.sizeof(ctypes.c_void_p)] if base]
            room = min(needed.value // ctypes.sizeof(ctypes.c_void_p) + 64, _MOST_MODULES)
        raise OSError("its list of modules does not stay the same")

    def _image(self, base: int) -> LoadedImage:
        info = _ModuleInfo()
        has_size = _kernel32.K32GetModuleInformation(self._handle, base, ctypes.byref(info), ctypes.sizeof(info))
        path = self._text(_kernel32.K32GetModuleFileNameExW, base)
        file = self._text(_kernel32.K32GetMappedFileNameW, base)
        return LoadedImage(path or file, base, info.size if has_size else 0, file=file or None)

    def _text(self, call: Callable[..., int], base: int) -> str:
        text = ctypes.create_unicode_buffer(_LONGEST_PATH)
        return text.value if call(self._handle, base, text, len(text)) else ""

    def _executable(self) -> str | None:
        text = ctypes.create_unicode_buffer(_LONGEST_PATH)
        length = wintypes.DWORD(len(text))
        done = _kernel32.QueryFullProcessImageNameW(self._handle, 0, text, ctypes.byref(length))
        return text.value if done and text.value else None


def _query(information: int) -> bytes:
    """Return what ``NtQuerySystemInformation`` says, which may grow while it is asked."""
    size = 1 << 16
    for _ in range(_MOST_TRIES):
        data = ctypes.create_string_buffer(size)
        needed = wintypes.ULONG()
        status = _ntdll.NtQuerySystemInformation(information, data, size, ctypes.byref(needed))
        if status == 0:
            return data.raw[: needed.value] if 0 < needed.value <= size else data.raw
        if status != _LENGTH_MISMATCH:
            raise OSError(f"NtQuerySystemInformation says {status:#010x}")
        size = min(max(needed.value, size) + (1 << 14), _LARGEST_LIST_BYTES)
    raise OSError("its list does not stay the same")


def _devices() -> Iterator[tuple[str, str]]:
    """Yield device and drive of each drive letter; one that ``subst`` made is none."""
    drives = _kernel32.GetLogicalDrives()
    for number in range(26):
        if drives >> number & 1:
            drive = f"{chr(ord('A') + number)}:"
            device = ctypes.create_unicode_buffer(_LONGEST_PATH)
            if _kernel32.QueryDosDeviceW(drive, device, len(device)) and device.value.startswith("\\Device\\"):
                yield device.value, drive


def _is_wow64(process: int) -> bool:
    answer = wintypes.BOOL()
    return bool(_kernel32.IsWow64Process(process, ctypes.byref(answer)) and answer.value)


def _enable_debugging() -> None:
    """Switch on ``SeDebugPrivilege``; who does not hold it goes on without."""
    token = wintypes.HANDLE()
    if not _advapi32.OpenProcessToken(_kernel32.GetCurrentProcess(), _ADJUST_PRIVILEGES, ctypes.byref(token)):
        return
    try:
        luid = wintypes.LARGE_INTEGER()
        if _advapi32.LookupPrivilegeValueW(None, "SeDebugPrivilege", ctypes.byref(luid)):
            wanted = _Privileges(1, luid, _ENABLED)
            _advapi32.AdjustTokenPrivileges(token, False, ctypes.byref(wanted), 0, None, None)
    finally:
        _kernel32.CloseHandle(token)


def _last_error() -> OSError:
    return ctypes.WinError(ctypes.get_last_error())
