r"""The symbol path: the text of ``_NT_SYMBOL_PATH``, parsed, printed, and turned into chains of stores.

    path    := element *( ";" element )
    element := folder | "cache*" [folder] | "srv*" store *( "*" store ) | "symsrv*" dll "*" store *( "*" store )
    store   := "" | folder | \\host\share[\…] | http(s)://… | s3://bucket[/…] | gs://bucket[/…] | az://container[/…]

Nothing here reads the disk or the environment: the caller passes the values of ``~`` and ``%NAME%``, and whether
``C:\sym`` is valid on this system is decided later.
Source: windows-driver-docs, symbol-path and advanced-symsrv-use; win32, using-symsrv.
"""

from typing import TYPE_CHECKING, Any

from symcache.sympath.values import (
    MICROSOFT,
    BucketPlace,
    CacheElement,
    ChainElement,
    DefaultPlace,
    Element,
    Environment,
    FolderElement,
    HttpPlace,
    LocalPlace,
    Place,
    ResolvedElement,
    ResolvedPlace,
    SymbolPath,
    UncPlace,
    chains,
    redact_path,
    redact_text,
    redact_url,
    redact_words,
    with_bucket,
    with_store,
    with_upstreams,
)

if TYPE_CHECKING:
    from symcache.sympath.parse import PlaceError, expand, parse_symbol_path

__all__ = [
    "MICROSOFT",
    "BucketPlace",
    "CacheElement",
    "ChainElement",
    "DefaultPlace",
    "Element",
    "Environment",
    "FolderElement",
    "HttpPlace",
    "LocalPlace",
    "Place",
    "PlaceError",
    "ResolvedElement",
    "ResolvedPlace",
    "SymbolPath",
    "UncPlace",
    "chains",
    "expand",
    "parse_symbol_path",
    "redact_path",
    "redact_text",
    "redact_url",
    "redact_words",
    "with_bucket",
    "with_store",
    "with_upstreams",
]


def __getattr__(name: str) -> Any:
    # Most runs have no text to parse, and its patterns take long to compile.
    if name in {"PlaceError", "expand", "parse_symbol_path"}:
        from symcache.sympath import parse  # noqa: PLC0415

        return getattr(parse, name)
    raise AttributeError(f"module 'symcache.sympath' has no attribute {name!r}")
