r"""The symbol path: the text of ``_NT_SYMBOL_PATH``, parsed, printed, and turned into chains of stores.

    path    := element *( ";" element )
    element := folder | "cache*" [folder] | "srv*" store *( "*" store ) | "symsrv*" dll "*" store *( "*" store )
    store   := "" | folder | \\host\share[\…] | http(s)://…

Nothing here reads the disk or the environment: the caller passes the values of ``~`` and ``%NAME%``, and whether
``C:\sym`` is valid on this system is decided later.
Source: windows-driver-docs, symbol-path and advanced-symsrv-use; win32, using-symsrv.
"""

from symcache.sympath.parse import parse_symbol_path
from symcache.sympath.resolve import (
    Environment,
    ExpansionError,
    ResolvedElement,
    chains,
    expand,
    with_store,
    with_upstreams,
)
from symcache.sympath.values import (
    MICROSOFT,
    Cache,
    Chain,
    DefaultPlace,
    Element,
    Folder,
    HttpPlace,
    LocalPlace,
    Place,
    ResolvedPlace,
    SymbolPath,
    UncPlace,
    redact_text,
    redact_url,
)

__all__ = [
    "MICROSOFT",
    "Cache",
    "Chain",
    "DefaultPlace",
    "Element",
    "Environment",
    "ExpansionError",
    "Folder",
    "HttpPlace",
    "LocalPlace",
    "Place",
    "ResolvedElement",
    "ResolvedPlace",
    "SymbolPath",
    "UncPlace",
    "chains",
    "expand",
    "parse_symbol_path",
    "redact_text",
    "redact_url",
    "with_store",
    "with_upstreams",
]
