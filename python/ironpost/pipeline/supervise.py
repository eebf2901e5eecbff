"""Tasks that are watched: one that dies makes its module unhealthy, comes back with back-off, and stops nobody else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from ironpost.pipeline.health import Health, HealthBoard
from ironpost.telemetry import get_logger

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_PROVEN_SECONDS = 5.0


class Supervisor:
    """Owns the daemon's background tasks.

    Args:
        board: Where a dying task shows.
        first_pause: Seconds before the first restart; doubles up to half a minute.
        proven: Seconds after which a restarted task counts as sound again.
    """

    def __init__(
        self, board: HealthBoard, *, first_pause: float = _FIRST_PAUSE_SECONDS, proven: float = _PROVEN_SECONDS
    ) -> None:
        self._board = board
        self._first_pause = first_pause
        self._proven = proven
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._log = get_logger("ironpost.pipeline.supervise")

    def spawn(self, name: str, module: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Starts a task that is started again whenever it fails; it ends when ``work`` returns.

        Args:
            name: Unique name.
            module: The module whose health it is.
            work: Makes a fresh coroutine for each start.
        """
        task = asyncio.create_task(self._watch(name, module, work), name=f"ironpost-{name}")
        self._tasks[name] = task
        return task

    async def stop(self, *names: str, seconds: float) -> None:
        """Cancels tasks and waits for them, at most ``seconds``.

        Args:
            names: Which; all when none is named.
            seconds: Limit; a task that ignores its cancellation is reported and left behind.
        """
        tasks = [self._tasks.pop(name) for name in (names or tuple(self._tasks)) if name in self._tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=seconds)
            for task in pending:
                self._log.error("task_does_not_stop", task=task.get_name())

    async def _watch(self, name: str, module: str, work: Callable[[], Awaitable[None]]) -> None:
        pause = self._first_pause
        loop = asyncio.get_running_loop()
        key = f"task {name}"
        while True:
            started = loop.time()
            proof = loop.call_later(self._proven, self._board.clear, module, key)
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
                proof.cancel()
                if loop.time() - started > self._proven:
                    pause = self._first_pause
                self._board.report(
                    module,
                    key,
                    Health.UNHEALTHY,
                    f"{name} failed: {type(error).__name__}: {error}",
                    f"it is started again in {pause:.1f} s; see the log for the whole error",
                )
                self._log.exception("task_failed", task=name, module=module, restart_seconds=pause)
            else:
                proof.cancel()
                with contextlib.suppress(KeyError):
                    self._board.clear(module, key)
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
