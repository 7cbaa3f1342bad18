"""Judgements on disk: every judgement is paid for once, by content.

The cache is one SQLite file in WAL mode. A result is written in a transaction of its own as soon as it is there, so a
process that is killed loses only what the judge had not answered, and several processes may use the file at once.
Errors are not stored: they are judged again.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from tiltlm.core.errors import ConfigError, RunError
from tiltlm.distributed import Ranks
from tiltlm.judging.digests import canonical
from tiltlm.judging.judge import Comparer, Item, Judge, PairItem, Score, Scorer, Verdict
from tiltlm.judging.orders import tempered
from tiltlm.storage.cache import cache_folder

SCHEMA = 1
"""Version of keys and values. Another one in the file is refused."""
FILE = "judgements.sqlite"
WAIT = 60.0
"""Seconds to wait for another process's transaction."""
CHUNK = 1024
"""Items that are looked up at a time."""

R = TypeVar("R", Score, Verdict)
I = TypeVar("I", Item, PairItem)  # noqa: E741


class JudgementCache:
    """Judgements by key, in a file that several processes may share."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """Open the cache, or make it.

        Args:
            folder: Its folder; None: `$TILTLM_CACHE`, else the user's cache folder.

        Raises:
            RunError: The file is no such cache, is damaged, or was written by another version.
        """
        self.path = (Path(folder) if folder is not None else cache_folder("judgements", "TILTLM_CACHE")) / FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.num_damaged = 0
        """Rows found damaged so far. They are judged again."""
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            raise self._failed(error) from error

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        with self._transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._db.execute(
                    "CREATE TABLE IF NOT EXISTS judgements (key TEXT PRIMARY KEY, judge TEXT NOT NULL, "
                    "value TEXT NOT NULL, checksum TEXT NOT NULL, created REAL NOT NULL) WITHOUT ROWID"
                )
                self._db.execute(f"PRAGMA user_version = {SCHEMA}")
                version = SCHEMA
        if version != SCHEMA:
            self.close()
            raise RunError(
                f"{self.path} has judgements of schema {version}, and this version of tiltlm reads schema {SCHEMA}; "
                "name another folder ($TILTLM_CACHE), or move the file away",
                code="cache_version",
                key="TILTLM_CACHE",
            )

    def _failed(self, error: sqlite3.DatabaseError) -> RunError:
        """Return what an error means: of the machine, such as a full disk or a lock that stays, or a damaged file."""
        is_of_file = getattr(error, "sqlite_errorname", "SQLITE_ERROR") == "SQLITE_ERROR"  # such as another table
        if isinstance(error, sqlite3.OperationalError) and not is_of_file:
            return RunError(
                f"{self.path} could not be used ({error}). Free space on its disk, or name a folder on another one: "
                "$TILTLM_CACHE. Then give the same command again: what the judge has answered is kept",
                code="not_writable",
                key="TILTLM_CACHE",
            )
        return RunError(
            f"{self.path} cannot be used as a cache of judgements ({error}); move the file away, and the judgements "
            "are made again",
            code="damaged",
            key="TILTLM_CACHE",
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")  # takes the lock now: an upgrade from a read lock could not wait
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # on a full disk sqlite has ended it already
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def get(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the stored values of those keys that have one. Damaged rows count as missing."""
        found = {}
        try:
            for key in set(keys):
                row = self._db.execute("SELECT value, checksum FROM judgements WHERE key = ?", (key,)).fetchone()
                if row is None:
                    continue
                if _checksum(key, str(row[0])) == row[1]:
                    found[key] = json.loads(row[0])
                else:
                    self.num_damaged += 1
        except sqlite3.DatabaseError as error:
            raise self._failed(error) from error
        return found

    def put(self, key: str, judge: str, value: Mapping[str, Any]) -> None:
        """Store one value, in one transaction.

        Args:
            key: Its key.
            judge: Digest of the judge, for `SELECT judge, COUNT(*)`.
            value: Plain values.
        """
        text = json.dumps(value, ensure_ascii=False)
        try:
            with self._transaction():
                self._db.execute(
                    "INSERT OR REPLACE INTO judgements VALUES (?, ?, ?, ?, ?)",
                    (key, judge, text, _checksum(key, text), time.time()),
                )
        except sqlite3.DatabaseError as error:
            raise self._failed(error) from error

    def __len__(self) -> int:
        count: int = self._db.execute("SELECT COUNT(*) FROM judgements").fetchone()[0]
        return count

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> "JudgementCache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, eq=False)
class SharedCache:
    """A cache for a judge that several processes ask together. Rank 0 reads and writes the file; all get the values.

    If each process read the file itself, one might find what another just wrote, and would not ask the judge with it.
    """

    cache: JudgementCache
    ranks: Ranks

    def get(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the stored values of those keys that have one. All processes call it together."""
        asked = list(keys)
        return self.ranks.first(lambda: self.cache.get(asked))

    def put(self, key: str, judge: str, value: Mapping[str, Any]) -> None:
        """Store one value; see `JudgementCache.put`."""
        if self.ranks.is_first:
            self.cache.put(key, judge, value)


def _checksum(key: str, text: str) -> str:
    return hashlib.sha256(f"{key}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


Judgements = JudgementCache | SharedCache
"""What has judgements by key."""


def key_of(judge: Judge, item: Item | PairItem, draw: int = 0) -> str:
    """Return the key of a judgement: the sha256 of everything that it depends on.

    Args:
        judge: The judge.
        item: A response, or two in the order in which they are shown.
        draw: Number of the draw, for a judge that samples and is asked several times.
    """
    shown = [item.a, item.b] if isinstance(item, PairItem) else [item.response]
    row = item.row if judge.reads is None else {name: item.row.get(name) for name in judge.reads}
    content = {
        "schema": SCHEMA,
        "kind": "compare" if isinstance(item, PairItem) else "score",
        "judge": judge.digest,
        "prompt": item.prompt,
        "responses": shown,
        "ended": item.ended,
        "row": row,
        "draw": draw,
    }
    return hashlib.sha256(canonical(content).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass
class Budget:
    """What judging may cost. It stops before the call that would be one too many."""

    max_calls: int | None = None
    """Judgements that may be made; those of the cache do not count. None: any number."""
    max_cost: float | None = None
    """In the currency of the price file. Calls that are under way when it is reached are still paid."""
    calls: int = 0
    cost: float | None = 0.0
    """None once the price of a call was not known."""

    @property
    def reached(self) -> str:
        """The limit that is reached, as the name of its option; "" if none is."""
        if self.max_calls is not None and self.calls >= self.max_calls:
            return "--max-calls"
        if self.max_cost is not None and self.cost is not None and self.cost >= self.max_cost:
            return "--max-cost"
        return ""

    def add(self, result: Score | Verdict) -> None:
        """Add the cost of a call.

        Raises:
            ConfigError: There is a limit on the cost, and the price is not known.
        """
        self.cost = None if self.cost is None or result.cost is None else self.cost + result.cost
        if self.cost is None and self.max_cost is not None:
            raise ConfigError(
                "--max-cost cannot hold, because the price of this judge is not known; add it to the price file, or "
                "limit the number of calls with --max-calls",
                code="unknown_price",
                key="--max-cost",
            )


class _Cached(Generic[I, R]):
    """What cached scorers and comparers share: each judgement is looked up, and made where it is missing."""

    def __init__(self, judge: Any, cache: Judgements, budget: Budget | None, draw: int, result: type[R]) -> None:
        self.judge = judge
        self.name, self.role, self.digest, self.reads = judge.name, judge.role, judge.digest, judge.reads
        self.scale = judge.scale
        self.scales_logits = getattr(judge, "scales_logits", False)
        self.cache = cache
        self.budget = budget or Budget()
        self._draw = draw
        self._result: Any = result

    def price(self, tokens_in: int, tokens_out: int) -> float | None:
        """Return the price of the judge inside."""
        price: float | None = self.judge.price(tokens_in, tokens_out)
        return price

    def missing(self, items: Iterable[I]) -> list[I]:
        """Return the distinct items that are not in the cache."""
        by_key = {key_of(self.judge, item, self._draw): item for item in items}
        known = self.cache.get(by_key)
        return [item for key, item in by_key.items() if key not in known]

    def _results(self, items: Iterable[I], judge_all: Any) -> Iterator[R]:
        """Yield the result of each item, in order, as soon as it is known."""
        waiting = iter(items)
        while chunk := list(islice(waiting, CHUNK)):
            keys = [key_of(self.judge, item, self._draw) for item in chunk]
            results = {key: replace(self._result(**value), cached=True) for key, value in self.cache.get(keys).items()}
            missing = {key: item for key, item in zip(keys, chunk, strict=True) if key not in results}
            fresh = self._judge(missing, judge_all)
            for key in keys:
                while key not in results:
                    made = next(fresh, None)
                    if made is None:
                        raise self._stopped()
                    results[made[0]] = made[1]
                yield results[key]
                if not results[key].error:
                    results[key] = replace(results[key], cached=True)  # an equal item later is not paid again

    def _judge(self, missing: Mapping[str, I], judge_all: Any) -> Iterator[tuple[str, R]]:
        """Judge what is missing, and store each result."""
        asked: list[str] = []

        def allowed() -> Iterator[I]:
            for key, item in missing.items():
                if self.budget.reached:
                    return
                self.budget.calls += 1
                asked.append(key)
                yield item

        for index, result in enumerate(judge_all(allowed())):
            key = asked[index]
            if not result.error:
                self.cache.put(key, self.digest, _plain(result))
            self.budget.add(result)
            yield key, result

    def _stopped(self) -> RunError:
        if self.budget.reached:
            return RunError(
                f"stopped at {self.budget.reached} after {self.budget.calls} calls; what was judged is kept. Raise "
                "the limit and run the same command again to go on",
                code="budget_reached",
                key=self.budget.reached,
            )
        return RunError(f"judge {self.name} gave fewer judgements than it was asked for", code="judge_stopped")


class CachedScorer(_Cached[Item, Score], Scorer):
    """A scorer whose scores are stored."""

    def score(self, items: Iterable[Item]) -> Iterator[Score]:
        """Yield a score for each item, in order."""
        return self._results(items, self.judge.score)


class CachedComparer(_Cached[PairItem, Verdict], Comparer):
    """A comparer whose verdicts are stored."""

    def compare(self, pairs: Iterable[PairItem]) -> Iterator[Verdict]:
        """Yield one verdict for each pair, in order; its probability calibrated if the judge was audited."""
        if self.judge.keeps_judgements:
            verdicts: Iterator[Verdict] = self.judge.compare(pairs)
            return verdicts
        verdicts = self._results(pairs, self.judge.compare)
        if not self.judge.scales_logits or self.scale == 1:
            return verdicts
        return (tempered(verdict, self.scale) for verdict in verdicts)


@overload
def cached(judge: Scorer, cache: Judgements, *, budget: Budget | None = None, draw: int = 0) -> CachedScorer: ...
@overload
def cached(
    judge: Scorer | Comparer, cache: Judgements, *, budget: Budget | None = None, draw: int = 0
) -> CachedScorer | CachedComparer: ...
def cached(
    judge: Scorer | Comparer, cache: Judgements, *, budget: Budget | None = None, draw: int = 0
) -> CachedScorer | CachedComparer:
    """Return the judge with its judgements stored.

    Args:
        judge: A scorer or a comparer. Its answers must depend on its digest and the items alone.
        cache: Where they are stored.
        budget: Limits, and the count of calls that were made.
        draw: Number of the draw, to ask a judge that samples once more.
    """
    if isinstance(judge, Scorer):
        return CachedScorer(judge, cache, budget, draw, Score)
    return CachedComparer(judge, cache, budget, draw, Verdict)


_NOT_STORED: Sequence[str] = ("cached", "error")


def _plain(result: Score | Verdict) -> dict[str, Any]:
    """Return a result without fields at their defaults."""
    defaults = {field.name: field.default for field in fields(result)}
    values = asdict(result).items()
    return {name: value for name, value in values if name not in _NOT_STORED and value != defaults[name]}
