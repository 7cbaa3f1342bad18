"""The watchdog of a run in several processes: it ends all of them when one is lost or stands still.

A collective operation waits until every rank has called it. If one never does, the others would wait for ever. So every
rank writes signs of life into torch's store from a thread (`exchange.py`), and rank 0 names the rank that is missing.
A rank is alive while it writes them, and a run is alive while the main thread of any rank moves: long work of one rank
for all, such as sampling, is no fault.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Never

from tiltlm.distributed.board import Beat, Board, Failure
from tiltlm.distributed.exchange import Exchange
from tiltlm.distributed.launched import rank_timeout

log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two signs of life."""
GRACE = 2.0
"""Seconds that the other ranks have, after the first failure, to report theirs: it may be the cause."""
SILENCE = 5.0
"""Seconds without a sign of life after which a rank is lost, once another rank has failed."""
LEAD = 5.0
"""Longest time in seconds to wait until the others have read a decision."""
PATIENCE = 20.0
"""Longest time in seconds to wait for a decision of rank 0."""
FOLLOW = 0.5
"""Seconds after which a rank follows the one that decided. The end of a process breaks the connections of others."""
SHOWN = 16
"""Number of ranks that a message names."""

NEXT = "Continue with the same command and --resume"


class Ending(NamedTuple):
    """How all processes end: the exit code, and what one of them prints."""

    exit_code: int
    text: str


class Watchdog:
    """The watchdog of one rank."""

    def __init__(self, board: Board, limit: float, spins: bool = False) -> None:
        """Prepare the watchdog; `start` begins it.

        Args:
            board: Where the ranks write.
            limit: Seconds; see `rank_timeout`.
            spins: As in `Exchange`.
        """
        self.limit = limit
        self.interval = min(INTERVAL, limit / 10) if limit else INTERVAL
        self.exchange = Exchange(board, self.interval, spins)
        self._seen = time.monotonic()
        """Time up to which the silence of the store is counted."""
        self._main_fails = False
        """True once the main thread ends this process; the watchdog then only looks whether the store answers."""
        self._right_to_end = threading.Lock()
        """Held by the thread that ends the process, and never released."""
        self._late: list[int] = []
        """Ranks that a warning has named: they compute for long, and the others wait."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tiltlm-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self.exchange.start()
        self._thread.start()

    def stop(self) -> None:
        """End the watch: this rank has done its work."""
        self._stop.set()
        self.exchange.stop()

    def fail(self, exit_code: int, text: str, is_ours: bool) -> Ending | None:
        """Report a failure of this rank's main thread, and return what it should print, if it is the one that prints.

        Args:
            exit_code: The exit code that this failure has by itself.
            text: As in `Failure`.
            is_ours: As in `Failure`.

        Returns:
            None if another rank prints; `exit_code` of all is then in `exchange.decision`.
        """
        self._main_fails = True
        self.exchange.report(exit_code, text, is_ours)
        ending = self._settled(Failure(self.exchange.rank, 0, exit_code, text, is_ours))
        self._right_to_end.acquire()
        if self._claims(ending):
            return ending
        self.acknowledge()
        return None

    def _watch(self) -> None:
        """Look at what is known, again and again, until a reason is found to end the process."""
        while not self._stop.wait(min(self.interval, 0.2)):
            self._count_silence()
            if self.limit and self.exchange.unheard > self._patience and not self._first_is_done():
                _print(store_text(self.exchange))
                end_process(1)
            if not self._main_fails:
                self._look()

    def _count_silence(self) -> None:
        """Add the time since the last call to the silence of the store, but not the time of a suspension."""
        now = time.monotonic()
        self.exchange.unheard += min(now - self._seen, 2 * self.interval)
        self._seen = now

    def _pause(self) -> None:
        """Wait a moment."""
        time.sleep(0.05)
        self._count_silence()

    @property
    def is_cut_off(self) -> bool:
        """True if nothing can be exchanged: the connection is broken, or the store has been silent for a while."""
        return self.exchange.is_cut_off or self.exchange.unheard > SILENCE

    @property
    def _patience(self) -> float:
        """Seconds that the store may be silent. A broken connection never comes back."""
        return min(PATIENCE, self.limit) if self.exchange.is_cut_off else self.limit

    def _first_is_done(self) -> bool:
        """Return whether rank 0, which may host the store, has ended as it should."""
        first = self.exchange.beats.get(0)
        return first is not None and first.done

    def _look(self) -> None:
        """End this process if the others have ended, a rank has failed, one is lost, or the run stands still."""
        exchange = self.exchange
        if exchange.decision is not None or exchange.failures:
            ending = self._settled(None)
        elif text := overdue(exchange, self.limit):
            ending = Ending(1, text)
        else:
            self._warn()
            return
        if self._main_fails or self._stop.is_set():  # meanwhile the main thread has failed too, or is done
            return
        if not self._right_to_end.acquire(blocking=False):
            return
        if self._claims(ending):
            _print(ending.text)
            self.await_others()
            end_process(ending.exit_code)
        self.acknowledge()
        end_process(exchange.decision or 1)

    def _warn(self) -> None:
        """Name the ranks for which the others wait for long, although they compute: once, until that changes."""
        found = late(self.exchange, self.limit)
        if found and found != self._late:
            text = late_text(self.exchange, found, self.limit)
            log.warning("%s", text, extra={"event": "ranks_late", "ranks": found})
        self._late = found

    def _settled(self, own: Failure | None) -> Ending:
        """Wait until the cause is known, or another rank has decided, and return how all end.

        Args:
            own: The failure of this rank; None if its main thread has not failed.
        """
        exchange, began = self.exchange, time.monotonic()
        while exchange.decision is None:
            seconds = time.monotonic() - began
            if seconds > PATIENCE or (seconds > GRACE and self._leads() and not self._doubtful()):
                break
            self._pause()
        if exchange.decision is not None:
            return Ending(exchange.decision, "")
        failures = dict(exchange.failures)
        if own is not None:
            failures.setdefault(own.rank, own)
        return choose(failures, self._lost(failures), exchange)

    def _leads(self) -> bool:
        """Return whether this rank has to decide: it is rank 0, or rank 0 or the store does not answer."""
        exchange = self.exchange
        return exchange.rank == 0 or self.is_cut_off or exchange.silent.get(0, 0.0) > SILENCE

    def _doubtful(self) -> bool:
        """Return whether a rank without a failure was silent for a moment: it may be lost."""
        exchange = self.exchange
        watched = [seconds for rank, seconds in exchange.silent.items() if rank not in exchange.failures]
        return not self.is_cut_off and any(3 * self.interval < seconds <= SILENCE for seconds in watched)

    def _lost(self, failures: Iterable[int]) -> list[int]:
        """Return the ranks that ended without a report, by what is known some seconds after a failure."""
        exchange = self.exchange
        if self.is_cut_off:
            return [0] if exchange.rank and 0 in exchange.beats else []
        return [rank for rank, seconds in exchange.silent.items() if seconds > SILENCE and rank not in failures]

    def _claims(self, ending: Ending) -> bool:
        """Make the decision for all ranks; return False if another rank has made one."""
        exchange = self.exchange
        if exchange.decision is None:
            exchange.decide(ending.exit_code)
        while exchange.decision is None and not self.is_cut_off:
            self._pause()
        return exchange.has_decided or exchange.decision is None

    def acknowledge(self) -> None:
        """Let the rank that decided know that this one ends, and let it end first, where the launcher looks."""
        told = threading.Event()
        self.exchange.acknowledge(told.set)
        told.wait(self.interval)
        time.sleep(FOLLOW)

    def await_others(self) -> None:
        """Wait until the other ranks have read the decision, for a few seconds at most.

        A launcher ends all processes when the first one ends, and the store may end with this process.
        """
        ended: list[bool] = []
        until = time.monotonic() + LEAD
        while not any(ended) and time.monotonic() < until and not self.is_cut_off:
            self.exchange.others_ended(ended.append)
            self._pause()


def choose(failures: Mapping[int, Failure], lost: Sequence[int], exchange: Exchange) -> Ending:
    """Return how all ranks end: by the error that is most likely the cause of the others.

    That is an error of ours in the lowest rank; else a rank that ended without a report; else the first failure.

    Args:
        failures: What ranks reported.
        lost: Ranks that ended without a report.
        exchange: Has the positions of all ranks.
    """
    ours = [failure for _, failure in sorted(failures.items()) if failure.is_ours]
    if lost and not ours:
        return Ending(1, lost_text(exchange, lost, "has ended without a message, or cannot be reached"))
    cause = ours[0] if ours else min(failures.values(), key=lambda failure: failure.order)
    where = "" if cause.rank == exchange.rank or not cause.text else f"rank {cause.rank}: "
    return Ending(cause.exit_code, where + cause.text)


def overdue(exchange: Exchange, limit: float) -> str:
    """Return what is wrong if a rank is lost for longer than the limit, or all stand still for so long; else "".

    Args:
        exchange: What is known of the ranks.
        limit: Seconds; 0 means no limit.
    """
    if not limit:
        return ""
    later = 0.0 if exchange.rank == 0 else GRACE  # rank 0 is the one that prints
    silent = [rank for rank, seconds in exchange.silent.items() if seconds > limit + later and rank != exchange.rank]
    if silent:
        what = f"has shown no sign of life for {limit:g} s: it is frozen or killed, or its machine cannot be reached"
        return lost_text(exchange, silent, what)
    working = [rank for rank, beat in exchange.beats.items() if not beat.done]
    if exchange.rank or not working or any(exchange.standing[rank] <= limit for rank in working):
        return ""
    missing = [rank for rank in working if not exchange.beats[rank].waits]
    if missing and len(missing) < len(working):
        return lost_text(exchange, missing, f"has not moved for {limit:g} s, and the others wait for it")
    return f"no rank has moved for {limit:g} s. All processes end.\n{_positions(exchange, working)}\n{NEXT}"


def late(exchange: Exchange, limit: float) -> list[int]:
    """Return the ranks that compute at the same place for longer than the limit, while all others wait for them.

    It may be long work of one rank for all, or work that never ends: nobody can tell these two apart.

    Args:
        exchange: What is known of the ranks.
        limit: Seconds; 0 means no limit.
    """
    working = [rank for rank, beat in exchange.beats.items() if not beat.done]
    found = [rank for rank in working if not exchange.beats[rank].waits]
    waiting = [rank for rank in working if rank not in found]
    is_long = all(exchange.same_place[rank] > limit for rank in working)
    are_waiting = waiting and all(exchange.standing[rank] > limit for rank in waiting)
    return found if limit and exchange.rank == 0 and is_long and are_waiting else []


def late_text(exchange: Exchange, ranks: Sequence[int], limit: float) -> str:
    """Return a message that names the ranks for which the others wait, and where every rank is."""
    names = _names(exchange, ranks)
    return (
        f"{names}: has computed at the same place for {limit:g} s, and the others wait for it. Long work of one "
        "process for all is no fault. If this is none, end the run; then continue with the same command and --resume.\n"
        f"{_positions(exchange, ranks)}"
    )


def lost_text(exchange: Exchange, lost: Sequence[int], what: str) -> str:
    """Return a message that names lost ranks and where every rank is.

    Args:
        exchange: Has the positions.
        lost: The ranks.
        what: What is wrong with each of them.
    """
    return f"{_names(exchange, lost)} {what}. All processes end.\n{_positions(exchange, lost)}\n{NEXT}"


def store_text(exchange: Exchange) -> str:
    """Return the message of a rank that no longer reaches the store by which the ranks know of each other."""
    address = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    first = f" with rank 0 ({_machine(exchange.beats[0])})" if exchange.rank and 0 in exchange.beats else ""
    return (
        f"rank {exchange.rank} has lost the connection{first}: the store at {address} has not answered for "
        f"{exchange.unheard:.0f} s. The machine is down, or the network between the two. This process ends.\n"
        f"{_positions(exchange, ())}\n{NEXT}"
    )


def _names(exchange: Exchange, ranks: Sequence[int]) -> str:
    """Return the ranks with their machines, at most `SHOWN` of them."""
    names = ", ".join(f"rank {rank} ({_machine(exchange.beats[rank])})" for rank in ranks[:SHOWN])
    return names + (f" and {len(ranks) - SHOWN} more" if len(ranks) > SHOWN else "")


def _machine(beat: Beat) -> str:
    return f"process {beat.pid} on {beat.host}"


def _positions(exchange: Exchange, first: Sequence[int]) -> str:
    """Return one line for each rank, the most important ones first, with where it is."""
    ranks = [*first, *(rank for rank in sorted(exchange.beats) if rank not in first)]
    lines = []
    for rank in ranks[:SHOWN]:
        beat = exchange.beats[rank]
        waits = "waits in" if beat.waits else "in"
        call = f"; {waits} {beat.call}" if beat.call else ""
        lines.append(f"  rank {rank} on {beat.host}: {beat.position}{call}")
    return "\n".join(lines) + (f"\n  and {len(ranks) - SHOWN} more ranks" if len(ranks) > SHOWN else "")


def _print(text: str) -> None:
    """Write a message on stderr and into log.txt, whatever the level of the log is."""
    if text:
        log.critical("error: %s", text, extra={"event": "ranks_end"})


def end_process(exit_code: int) -> Never:
    """End the process at once: its threads may wait in an operation that never returns.

    Nothing is lost that a kill would not lose: files are written whole, and the system releases locks.
    """
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")  # a progress bar hides the cursor
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


_active: list[Watchdog] = []


def watch(board: Board, spins: bool) -> None:
    """Start the watchdog of this process, unless it runs.

    Args:
        board: Where the ranks write.
        spins: As in `Exchange`.
    """
    if not _active:
        _active.append(Watchdog(board, rank_timeout(), spins))
        _active[0].start()


def unwatch() -> None:
    """End the watch, because this rank has done its work."""
    while _active:
        _active.pop().stop()


def active() -> Watchdog:
    """Return the watchdog of this process. It runs from `Ranks.join` on."""
    return _active[0]
