"""Whether a replica is to be sent requests, for load balancers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

if TYPE_CHECKING:
    from symcache.server.metrics import Replicas
    from symcache.stores.local.tree import Store

_PATIENCE_S = 2.0


class ReadyCheck:
    """Looks whether the server can answer: *store*, if there is one, can be read, and it is not about to stop."""

    def __init__(self, store: Store | None, replicas: Replicas) -> None:
        self._store = store
        self._replicas = replicas
        self._one_at_a_time = anyio.Lock()
        self._is_looking = False

    async def tell(self, *, is_stopping: bool) -> dict[str, Any]:
        """Return ``ready``, and why: ``store``, ``cluster`` and ``stopping``. No names, as everybody may ask."""
        store = await self._look()
        return {
            "ready": store != "unreadable" and not is_stopping,
            "store": store,
            "cluster": self._replicas.state,
            "stopping": is_stopping,
        }

    async def _look(self) -> str:
        if self._store is None:
            return "none"
        with anyio.move_on_after(_PATIENCE_S):
            async with self._one_at_a_time:
                # A look that hangs, as on a share whose server is away, cannot be ended: no second one beside it.
                if not self._is_looking and await to_thread.run_sync(self._read, self._store, abandon_on_cancel=True):
                    return "readable"
        return "unreadable"

    def _read(self, store: Store) -> bool:
        self._is_looking = True
        try:
            with os.scandir(store.root) as entries:
                next(entries, None)
        except FileNotFoundError:
            return True  # it is made when the first file comes
        except OSError:
            return False
        else:
            return True
        finally:
            self._is_looking = False
