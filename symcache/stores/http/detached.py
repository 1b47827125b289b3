"""Calls of the system that may take longer than anybody waits, made where they hold up nothing."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import anyio
from anyio import from_thread, lowlevel

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["call_detached"]


_Returned = TypeVar("_Returned")
_Arguments = TypeVarTuple("_Arguments")


async def call_detached(function: Callable[[*_Arguments], _Returned], *arguments: *_Arguments) -> _Returned:
    """Call *function* in a thread that nothing waits for once the caller has given up, not even the program's end.

    A resolver, Kerberos or a keyring may take minutes over an answer. anyio's threads can be abandoned, too, but the
    interpreter waits for them before it ends.

    Raises:
        Exception: What *function* raises.
    """
    token = lowlevel.current_token()
    over = anyio.Event()
    returned: list[_Returned] = []
    raised: list[Exception] = []

    def call() -> None:
        try:
            returned.append(function(*arguments))
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            raised.append(error)
        with suppress(Exception):  # the loop may have ended since
            from_thread.run_sync(over.set, token=token)

    threading.Thread(target=call, name="detached call", daemon=True).start()
    await over.wait()
    if raised:
        raise raised[0]
    return returned[0]
