"""Single flight: one fetch for all concurrent requests for the same thing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from anyio.abc import TaskGroup

__all__ = ["SingleFlight"]


T = TypeVar("T")


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.landed = anyio.Event()
        self.result: T | None = None
        self.error: Exception | None = RuntimeError("the group that this ran in has ended")


class SingleFlight(Generic[T]):
    """Runs a piece of work once for all concurrent callers.

    The work lives in *group*: a caller that is cancelled leaves it to the others. Its errors reach every caller.

    Args:
        group: Where the work runs; cancelling it ends all flights.
    """

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._flights: dict[Hashable, _Flight[T]] = {}

    async def run(self, name: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """Return what *work* returns, or what the work under way under *name* will.

        Raises:
            Exception: Whatever the work raised.
            RuntimeError: The group ended before the work did.
        """
        flight = self._flights.get(name)
        if flight is None:
            flight = _Flight()
            self._group.start_soon(self._fly, name, flight, work)
            self._flights[name] = flight
        await flight.landed.wait()
        if flight.error is not None:
            raise flight.error
        return flight.result  # type: ignore[return-value]  # set by _fly whenever error is not

    async def _fly(self, name: Hashable, flight: _Flight[T], work: Callable[[], Awaitable[T]]) -> None:
        try:
            flight.result = await work()
            flight.error = None
        except Exception as error:  # noqa: BLE001 - raised in every caller
            flight.error = error
        finally:
            del self._flights[name]
            flight.landed.set()
