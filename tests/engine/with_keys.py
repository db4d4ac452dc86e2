"""`fastnl-engine` with a store of keys in its state folder, and nobody but its clients who uses it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from fastnl_engine import gateway, main
from fastnl_engine.kv.embedded import EmbeddedKV


class Gateway(gateway.Gateway):
    def __init__(self, config: Any, make_engine: Any) -> None:
        super().__init__(config, make_engine)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._store = self._in_loop(self._open(Path(config.state_dir) / "keys.db"))
        self.offer_keys(self._store, self._loop)

    async def _open(self, path: Path) -> EmbeddedKV:
        return EmbeddedKV(path)

    def _in_loop(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        super().close()
        self._in_loop(self._store.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


if __name__ == "__main__":
    main.Gateway = Gateway  # type: ignore[misc]
    main.main()
