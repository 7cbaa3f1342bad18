"""The thread that exchanges signs of life with the other ranks.

It alone talks to the store, because a store on a lost machine may never answer. What waits for an answer looks at the
fields of `Exchange`, which are always there.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from tiltlm.distributed.board import Beat, Board, Failure
from tiltlm.distributed.position import HERE, host, main_cpu_seconds, main_place

COMPUTES = 0.05
"""Share of the time in which the main thread has computed, from which on it is at work."""


class Exchange:
    """What this rank knows of the others.

    Times are counted in beats of this process and not on a clock: if the whole run is suspended, nobody was silent.
    """

    def __init__(self, board: Board, interval: float, spins: bool = False) -> None:
        """Prepare the exchange; `start` begins it.

        Args:
            board: Where the ranks write.
            interval: Seconds between two beats.
            spins: True if the main thread uses the processor while it waits for others, as it does for a GPU. Its
                processor time is then no sign of life.
        """
        self.rank, self.size, self.interval = board.rank, board.size, interval
        self.beats: dict[int, Beat] = {}
        """The newest beat of each rank that is watched: rank 0 watches all, the others rank 0."""
        self.silent: dict[int, float] = {}
        """Seconds since the newest beat, by rank."""
        self.standing: dict[int, float] = {}
        """Seconds since the main thread of a rank had last moved."""
        self.same_place: dict[int, float] = {}
        """Seconds since the position of a rank had last changed: its main thread may compute all the same."""
        self.failures: dict[int, Failure] = {}
        self.decision: int | None = None
        """The exit code that was decided for all ranks."""
        self.has_decided = False
        """True if this rank made the decision."""
        self.unheard = 0.0
        """Seconds since the store had last answered. The watchdog counts them."""
        self.is_cut_off = False
        """True if the connection to the store is broken. Torch's client does not connect again."""
        self._board = board
        self._has_ended = False
        self._tasks: list[Callable[[Board], None]] = []
        self._count = self._moved = 0
        self._state: object = None
        self._spins, self._cpu_seconds = spins, 0.0
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="tiltlm-beats", daemon=True)

    def start(self) -> None:
        """Begin to write beats and to read those of the others."""
        self._thread.start()

    def stop(self) -> None:
        """Write the last beat and end the thread; waits for an answer of the store for a few beats at most."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=5 * self.interval)

    def report(self, exit_code: int, text: str, is_ours: bool) -> None:
        """Report that this rank fails."""
        self._post(lambda board: board.report(exit_code, text, is_ours))

    def decide(self, exit_code: int) -> None:
        """Try to set the exit code of all ranks; `decision` and `has_decided` show the result."""

        def act(board: Board) -> None:
            self.has_decided = board.decide(exit_code)
            self.decision = board.decision()

        self._post(act)

    def acknowledge(self, then: Callable[[], None]) -> None:
        """Report that this rank has read the decision; `then` is called when the store has it. It beats no more."""

        def act(board: Board) -> None:
            board.acknowledge()
            self._has_ended = True
            then()

        self._post(act)

    def others_ended(self, then: Callable[[bool], None]) -> None:
        """Call `then` with whether every other rank has read the decision, or has been silent for a while."""

        def act(board: Board) -> None:
            others = (rank for rank in range(self.size) if rank != self.rank)
            then(all(board.ended(rank) or self.silent.get(rank, 0.0) > 5 * self.interval for rank in others))

        self._post(act)

    def _post(self, task: Callable[[Board], None]) -> None:
        self._tasks.append(task)
        self._wake.set()

    def _run(self) -> None:
        """Beat until the end, or until the connection to the store breaks."""
        try:
            board = self._board.clone()
        except RuntimeError:
            board = self._board
        before = time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            elapsed, before = min(now - before, 2 * self.interval), now
            try:
                self._beat(board)
                self._read(board, elapsed)
                while self._tasks:
                    self._tasks[0](board)
                    del self._tasks[0]
                self.unheard = 0.0
                if self._has_ended:
                    return
            except RuntimeError:
                self.is_cut_off = True
                return
            busy = self.failures or self.decision is not None
            self._wake.wait(min(0.1, self.interval) if busy else self.interval)
            self._wake.clear()
        with suppress(RuntimeError):  # the process that hosts the store has ended
            self._beat(board, done=True)

    def _beat(self, board: Board, done: bool = False) -> None:
        """Write this rank's sign of life."""
        place = main_place()
        state, cpu_seconds = (place.state, HERE.ticks), main_cpu_seconds()
        computes = not self._spins and cpu_seconds - self._cpu_seconds > COMPUTES * self.interval
        self._moved += state != self._state or computes
        self._count, self._state, self._cpu_seconds = self._count + 1, state, cpu_seconds
        beat = (self._count, self._moved, host(), os.getpid(), HERE.text, place.call, place.waits, done, HERE.ticks)
        board.write_beat(Beat(*beat))

    def _read(self, board: Board, elapsed: float) -> None:
        """Read the beats, failures and the decision of the others."""
        ranks = range(self.size) if self.rank == 0 else (0, self.rank)
        for rank, beat in board.beats(ranks).items():
            known = self.beats.get(rank)
            is_new = known is None or beat.count != known.count
            has_moved = known is None or beat.moved != known.moved
            self.silent[rank] = 0.0 if is_new or beat.done else self.silent[rank] + elapsed
            self.standing[rank] = 0.0 if has_moved or beat.done else self.standing[rank] + elapsed
            is_elsewhere = known is None or beat.ticks != known.ticks
            self.same_place[rank] = 0.0 if is_elsewhere or beat.done else self.same_place[rank] + elapsed
            self.beats[rank] = beat
        self.failures = board.failures()
        if self.decision is None:
            self.decision = board.decision()
