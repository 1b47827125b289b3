"""The other end: servers asked over HTTP, and the chains of stores that a symbol path makes."""

from symcache.upstream.outcome import Attempt, Cause, Failed, Fetched, Hint, Missing, Outcome, Present
from symcache.upstream.servers import SERVERS, Hints, Server
from symcache.upstream.source import SymbolSource

__all__ = [
    "SERVERS",
    "Attempt",
    "Cause",
    "Failed",
    "Fetched",
    "Hint",
    "Hints",
    "Missing",
    "Outcome",
    "Present",
    "Server",
    "SymbolSource",
]
