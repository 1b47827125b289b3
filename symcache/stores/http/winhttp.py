"""The proxy that Windows chooses for a URL: the user's settings, a script (PAC) and its discovery (WPAD)."""

from __future__ import annotations

import sys

assert sys.platform == "win32"

import ctypes  # noqa: E402
from ctypes import wintypes  # noqa: E402

__all__ = ["find_proxy", "has_script"]


_ACCESS_NO_PROXY = 1
_AUTO_DETECT, _CONFIG_URL = 1, 2
_DETECT_DHCP, _DETECT_DNS = 1, 2
_NO_SCRIPT_FOUND = {12180, 12167, 12166, 12178}  # auto-detection failed, download failed, bad script, service absent


class _IeConfig(ctypes.Structure):
    """``WINHTTP_CURRENT_USER_IE_PROXY_CONFIG``."""

    _fields_ = (
        ("auto_detect", wintypes.BOOL),
        ("config_url", wintypes.LPWSTR),
        ("proxy", wintypes.LPWSTR),
        ("bypass", wintypes.LPWSTR),
    )


class _AutoOptions(ctypes.Structure):
    """``WINHTTP_AUTOPROXY_OPTIONS``."""

    _fields_ = (
        ("flags", wintypes.DWORD),
        ("detect_flags", wintypes.DWORD),
        ("config_url", wintypes.LPCWSTR),
        ("reserved", ctypes.c_void_p),
        ("reserved_2", wintypes.DWORD),
        ("logon", wintypes.BOOL),
    )


class _ProxyInfo(ctypes.Structure):
    """``WINHTTP_PROXY_INFO``."""

    _fields_ = (("access", wintypes.DWORD), ("proxy", wintypes.LPWSTR), ("bypass", wintypes.LPWSTR))


_winhttp = ctypes.WinDLL("winhttp", use_last_error=True)
_winhttp.WinHttpOpen.restype = ctypes.c_void_p
_winhttp.WinHttpOpen.argtypes = (wintypes.LPCWSTR, wintypes.DWORD, wintypes.LPCWSTR, wintypes.LPCWSTR, wintypes.DWORD)
_winhttp.WinHttpCloseHandle.argtypes = (ctypes.c_void_p,)
_winhttp.WinHttpGetIEProxyConfigForCurrentUser.argtypes = (ctypes.POINTER(_IeConfig),)
_winhttp.WinHttpGetProxyForUrl.argtypes = (
    ctypes.c_void_p,
    wintypes.LPCWSTR,
    ctypes.POINTER(_AutoOptions),
    ctypes.POINTER(_ProxyInfo),
)
_winhttp.WinHttpSetTimeouts.argtypes = (ctypes.c_void_p, *[ctypes.c_int] * 4)


def _user_settings() -> _IeConfig:
    config = _IeConfig()
    _winhttp.WinHttpGetIEProxyConfigForCurrentUser(ctypes.byref(config))
    return config


def has_script() -> bool:
    """Return whether the user's settings name a proxy script.

    "Detect settings automatically" is on by default and finds nothing in most places, at the price of seconds; it
    counts only where the config file asks for it.
    """
    return bool(_user_settings().config_url)


def find_proxy(url: str, script: str) -> str:
    """Return what a proxy script says of *url*, as ``PROXY host:port; DIRECT`` or WinHTTP's ``host:port;host:port``.

    Args:
        url: The server's address.
        script: URL of the script; ``auto`` to discover one; empty for the user's own.

    Raises:
        OSError: There is no script, or it does not run.
    """
    place = "" if script == "auto" else script or _user_settings().config_url or ""
    flags, detect = (_CONFIG_URL, 0) if place else (_AUTO_DETECT, _DETECT_DHCP | _DETECT_DNS)
    session = _winhttp.WinHttpOpen("symcache", _ACCESS_NO_PROXY, None, None, 0)
    if not session:
        raise OSError(f"WinHTTP cannot be used (error {ctypes.get_last_error()})")
    try:
        _winhttp.WinHttpSetTimeouts(session, *[5000] * 4)
        # The signed-in user may be named to the server of a script that was named, to none that was discovered.
        options = _AutoOptions(flags, detect, place or None, None, 0, bool(place))
        info = _ProxyInfo()
        if not _winhttp.WinHttpGetProxyForUrl(session, url, ctypes.byref(options), ctypes.byref(info)):
            error = ctypes.get_last_error()
            if not place and error in _NO_SCRIPT_FOUND:
                return "DIRECT"
            raise OSError(f"the proxy script {place or 'of this network'} fails (WinHTTP error {error})")
        return "DIRECT" if info.access == _ACCESS_NO_PROXY or not info.proxy else str(info.proxy)
    finally:
        _winhttp.WinHttpCloseHandle(session)
