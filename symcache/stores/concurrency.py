"""What concurrent tasks share: one fetch for all who ask for the same thing, one trip to a thread for many calls."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar, TypeVarTuple

import anyio
from anyio import from_thread, lowlevel, to_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Iterator

    from anyio.abc import TaskGroup

T = TypeVar("T")
U = TypeVar("U")

_QUICK_S = 0.005
_SLOW_FOR_S = 1.0


class _Call(Generic[T]):
    def __init__(self, function: Callable[[], T]) -> None:
        self.function = function
        self.woken = anyio.Event()
        self.is_done = False
        self.result: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:  # noqa: BLE001 - raised again where it was called
            self.error = error


class Batches:
    """Runs functions in worker threads, those that wait at the same time one after the other in one thread.

    A trip to a thread and back costs as much as looking for a file, or more. With few threads, calls that come while
    all are busy gather, and the next thread takes them together, *longest* at most.

    With *inline*, functions are called on the event loop itself while they are quick. Threads that make many short
    system calls fight for the interpreter's lock: for small files that takes two fifths of the time of a run.
    """

    def __init__(self, threads: int, longest: int = 16, *, inline: bool = False) -> None:
        self._free = threads
        self._longest = longest
        self.inline = inline
        self._slow_until_s = 0.0
        self._waiting: deque[_Call[object]] = deque()

    async def run(self, function: Callable[[], T]) -> T:
        """Return what *function* returns; raise what it raises. Once begun it is waited for, even if cancelled."""
        if self.inline and (began_s := time.monotonic()) >= self._slow_until_s:
            try:
                return function()
            finally:
                ended_s = time.monotonic()
                if ended_s - began_s > _QUICK_S:
                    self._slow_until_s = ended_s + _SLOW_FOR_S
        call = _Call(function)
        self._waiting.append(call)  # type: ignore[arg-type]
        try:
            while not call.is_done:
                if self._free:
                    await self._run_batch()
                else:
                    await call.woken.wait()
                    if not call.is_done:
                        call.woken = anyio.Event()
        except anyio.get_cancelled_exc_class():
            if call in self._waiting:
                self._waiting.remove(call)  # type: ignore[arg-type]
                self._wake_next()
            else:
                with anyio.CancelScope(shield=True):
                    await self._wait(call)
            raise
        if call.error is not None:
            raise call.error
        return call.result  # type: ignore[return-value]  # set whenever error is not

    async def _wait(self, call: _Call[T]) -> None:
        while not call.is_done:
            if call.woken.is_set():  # to start a batch, which another has started since
                call.woken = anyio.Event()
            await call.woken.wait()

    async def _run_batch(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(self._longest, len(self._waiting)))]

        def run() -> None:
            for call in batch:
                call.run()

        self._free -= 1
        try:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(run)
        finally:
            self._free += 1
            for call in batch:
                call.is_done = True
                call.woken.set()
            self._wake_next()

    def _wake_next(self) -> None:
        """Let one that waits start the next batch."""
        if self._free and self._waiting:
            self._waiting[0].woken.set()


class Seats:
    """A number of seats, of which a task that waits for somebody else leaves its own to others meanwhile."""

    def __init__(self, seats: int) -> None:
        self._free = anyio.Semaphore(seats)
        self._seated: set[object] = set()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Have a seat for a ``with`` block."""
        task = anyio.get_current_task().id
        await self._sit_down(task)
        try:
            yield
        finally:
            self._stand_up(task)

    async def left_for(self, wait: Callable[[], Awaitable[T]]) -> T:
        """Return what *wait* returns; the seat that this task has, if it has one, is free until then."""
        task = anyio.get_current_task().id
        if task not in self._seated:
            return await wait()
        self._stand_up(task)
        result = await wait()
        await self._sit_down(task)
        return result

    async def _sit_down(self, task: object) -> None:
        await self._free.acquire()
        self._seated.add(task)

    def _stand_up(self, task: object) -> None:
        # A task that was cancelled before it had its seat again has none.
        if task in self._seated:
            self._seated.remove(task)
            self._free.release()


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.landed = anyio.Event()
        self.result: T | None = None
        self.error: Exception | None = RuntimeError("the group that this ran in has ended")


class SingleFlight(Generic[T]):
    """Runs a piece of work once for all concurrent callers.

    The work lives in *group*: a caller that is cancelled leaves it to the others, and cancelling *group* ends all. Its
    errors reach every caller.
    """

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._flights: dict[Hashable, _Flight[T]] = {}

    async def run(self, name: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """Return what *work* does, or the work under way as *name*; `RuntimeError` if the group ended before that."""
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


def map_in_order(function: Callable[[T], U], items: Iterable[T], *, at_once: int) -> Iterator[tuple[T, U]]:
    """Yield each of *items* with what *function* makes of it, in their order; *at_once* threads work a little ahead.

    Nothing waits for the threads once who asked has gone, not even the program's end: silence lasts for seconds.
    """
    tasks: SimpleQueue[tuple[T, Future[U]] | None] = SimpleQueue()
    ahead: deque[tuple[T, Future[U]]] = deque()
    threads = 0

    def work() -> None:
        while (task := tasks.get()) is not None:
            item, result = task
            if not result.set_running_or_notify_cancel():
                continue
            try:
                result.set_result(function(item))
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                result.set_exception(error)

    try:
        for item in items:
            ahead.append((item, Future()))
            tasks.put(ahead[-1])
            if threads < at_once:
                threads += 1
                threading.Thread(target=work, name="ask a bucket", daemon=True).start()
            if len(ahead) >= 2 * at_once:
                first, result = ahead.popleft()
                yield first, result.result()
        while ahead:
            first, result = ahead.popleft()
            yield first, result.result()
    finally:
        for _, result in ahead:
            result.cancel()
        for _ in range(threads):
            tasks.put(None)


async def take_in_order(
    items: Iterable[T], bring: Callable[[T], Awaitable[U]], take: Callable[[U], Awaitable[None]], *, at_once: int
) -> None:
    """Let *take* have what *bring* makes of each of *items*, in their order and one at a time.

    *at_once* are being brought, wait for their turn or are taken. The first error ends all of it, and is raised alone.
    """
    left = iter(items)
    turn = anyio.Event()
    turn.set()
    errors: list[Exception] = []

    async def work() -> None:
        nonlocal turn
        try:
            for item in left:
                own, turn = turn, anyio.Event()
                following = turn
                brought = await bring(item)
                await own.wait()
                await take(brought)
                following.set()
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(work)
    if errors:
        raise errors[0]


_Returned = TypeVar("_Returned")
_Arguments = TypeVarTuple("_Arguments")


async def call_detached(function: Callable[[*_Arguments], _Returned], *arguments: *_Arguments) -> _Returned:
    """Call *function* in a thread that nothing waits for once the caller has given up, not even the program's end.

    A resolver, Kerberos or a keyring may take minutes over an answer. anyio's threads can be abandoned, too, but the
    interpreter waits for them before it ends.

    Raises:
        Exception: What *function* raises; `RuntimeError` in the place of what is none.
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
        except BaseException as error:  # noqa: BLE001 - as a panic of Rust; else the caller would wait for ever
            raised.append(RuntimeError(f"{type(error).__name__} in a thread"))
        with suppress(Exception):  # the loop may have ended since
            from_thread.run_sync(over.set, token=token)

    threading.Thread(target=call, name="detached call", daemon=True).start()
    await over.wait()
    if raised:
        raise raised[0]
    return returned[0]
