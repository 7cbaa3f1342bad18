"""A served model as an asker: the best way to ask that the server knows, several requests at a time.

Ways are tried from the best one to the plainest, one question at a time, until one gives a readable answer. All
further questions are asked in this way, and every reply names it.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from tiltlm.core.errors import ConfigError, RunError
from tiltlm.judging.digests import digest_of
from tiltlm.judging.language.prices import Price
from tiltlm.judging.language.question import Asker, Mode, Question, Reply
from tiltlm.judging.language.reading import LADDER, Rung, Sampling, Unreadable, Unsupported
from tiltlm.judging.language.server import Failed, Received, Rejected, Server, usage_of

MAX_REJECTED = 3
"""First questions that a server may reject in every way before it is given up."""


class ServedModel(Asker):
    """A model behind a server."""

    is_sampled = True

    def __init__(
        self,
        server: Server,
        *,
        mode: Mode | None = None,
        sampling: Sampling,
        price: Price | None = None,
        concurrency: int = 8,
    ) -> None:
        """Make the asker. Nothing is sent yet.

        Args:
            server: The connection.
            mode: The only way to ask; None: the best one that works.
            sampling: How answers are written.
            price: Price of a million tokens; None if it is not known.
            concurrency: Requests that are under way at the same time.
        """
        self.name = server.settings.model
        self.digest = digest_of(
            "served", model=self.name, url=server.settings.url, mode=mode, sampling=[*vars(sampling).items()]
        )
        self._server = server
        self._sampling = sampling
        self._price = price
        self._concurrency = concurrency
        self._rungs = tuple(rung for rung in LADDER if mode in (None, rung.mode))
        self._proven: Rung | None = None
        self._num_rejected = 0

    def price(self, tokens_in: int, tokens_out: int) -> float | None:
        """Return what this many tokens cost; None if the price is not known."""
        return None if self._price is None else self._price.of(tokens_in, tokens_out)

    def ask(self, groups: Iterable[Sequence[Question]]) -> Iterator[tuple[Reply, ...]]:
        """Yield the replies to each group of questions, in order."""
        waiting = iter(groups)
        while self._proven is None:  # one at a time, so that a way that does not work is paid for once
            group = next(waiting, None)
            if group is None:
                return
            yield self._try_all(group)
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="judge")
        under_way: deque[Future[tuple[Reply, ...]]] = deque()
        try:
            for group in waiting:
                under_way.append(pool.submit(self._answer, self._proven, group))
                if len(under_way) >= self._concurrency:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _try_all(self, group: Sequence[Question]) -> tuple[Reply, ...]:
        """Answer a group in the best way that works. A way is proven by an answer without an error.

        A model that gives the labels no probability wants to write something first, so the next way is tried. Other
        errors are of the question.

        Raises:
            ConfigError: The only way that the settings allow worked for none of the first questions.
            RunError: No way did. A single question may just be too long.
        """
        reasons, paid = [], list[Reply]()
        no_label: tuple[Reply, ...] = ()
        for rung in self._rungs:
            try:
                replies = self._answer(rung, group, proven=False)
            except (Unsupported, Rejected) as error:
                reasons.append(f"{rung.mode}: {error}")
                paid += getattr(error, "paid", [])
                continue
            if any(reply.error and reply.label_mass is not None for reply in replies):
                no_label = no_label or replies
                paid += replies
                continue
            if not any(reply.error for reply in replies):
                self._proven = rung
            return _with_costs(replies, paid)
        if no_label:
            return _with_costs(no_label, [reply for reply in paid if reply not in no_label])
        self._num_rejected += 1
        if self._num_rejected >= MAX_REJECTED:
            raise self._no_way(reasons)
        problem = f"{self.name} did not accept the question in any way ({'; '.join(reasons)})"
        return _with_costs([Reply(error=problem, model=self.name) for _ in group], paid)

    def _no_way(self, reasons: Sequence[str]) -> ConfigError | RunError:
        text = "; ".join(reasons)
        if len(self._rungs) == 1:
            return ConfigError(
                f"judge.mode={self._rungs[0].mode}: {self.name} cannot be asked in this way ({text}); set it to auto",
                code="unsupported_mode",
                key="judge.mode",
            )
        return RunError(f"{self.name} could not be asked in any way ({text})", code="unsupported_mode", key="judge.url")

    def _answer(self, rung: Rung, group: Sequence[Question], *, proven: bool = True) -> tuple[Reply, ...]:
        """Answer a group in one way."""
        replies: list[Reply] = []
        for start in range(0, len(group), rung.together):
            part = group[start : start + rung.together]
            draws = part[0].num_draws if rung.writes else 1
            found = [self._call(rung, part, proven) for _ in range(draws)]
            replies += found[0] if draws == 1 else [_frequencies(part[0], [reply for (reply,) in found])]
        return tuple(replies)

    def _call(self, rung: Rung, part: Sequence[Question], proven: bool) -> list[Reply]:
        """Send one request, and return its replies; a failure becomes an error of each."""
        received: Received | None = None
        try:
            tokens = self._sampling.max_new_tokens if rung.writes else 1
            received = self._server.post(rung.route, rung.body(part, self._sampling), tokens)
            replies = rung.read(part, received.body)
        except (Failed, Unreadable) as error:
            replies = [Reply(error=str(error)) for _ in part]
        except (Unsupported, Rejected) as error:
            if not proven:
                error.paid = [self._billed(Reply(), rung, received, first=True)]  # type: ignore[union-attr]
                raise
            replies = [Reply(error=str(error)) for _ in part]
        return [self._billed(reply, rung, received, first=k == 0) for k, reply in enumerate(replies)]

    def _billed(self, reply: Reply, rung: Rung, received: Received | None, *, first: bool) -> Reply:
        """Return a reply with what its request cost; of several replies of one request, the first one has the cost."""
        reply = replace(reply, mode=rung.mode, model=self.name)
        if received is None:
            return reply  # no attempt was answered, so nothing is known to have been charged
        reply = replace(
            reply,
            model=str(received.body.get("model") or self.name),
            attempt=received.attempt,
            latency=received.latency,
            finish_reason=reply.finish_reason or _finish_reason(received.body),
        )
        if not first:
            return reply
        usage = usage_of(received.body)
        if usage is None:
            return replace(reply, cost=None)
        return replace(reply, tokens_in=usage[0], tokens_out=usage[1], cost=self.price(*usage))


def _finish_reason(body: Mapping[str, Any]) -> str:
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return str(first.get("finish_reason") or "") if isinstance(first, Mapping) else ""


def _frequencies(question: Question, draws: Sequence[Reply]) -> Reply:
    """Return several written answers as one reply: the probability of a label is how often it was written.

    One failed draw is an error: a mean over those that succeeded would depend on which ones failed.
    """
    (whole,) = _with_costs(draws[:1], draws[1:])
    whole = replace(whole, raw="\n---\n".join(reply.raw for reply in draws))
    failed = next((reply for reply in draws if reply.error), None)
    if failed is not None:
        return replace(whole, word="", probabilities=None, error=failed.error)
    words = [reply.word for reply in draws]
    shares = {label.word: words.count(label.word) / len(words) for label in question.written}
    return replace(whole, word=max(shares, key=lambda word: shares[word]), probabilities=shares)


def _with_costs(replies: Sequence[Reply], others: Sequence[Reply]) -> tuple[Reply, ...]:
    """Return replies of which the first one also has the cost, tokens and time of other replies."""
    first, *rest = replies
    for other in others:
        first = replace(
            first,
            cost=None if first.cost is None or other.cost is None else first.cost + other.cost,
            tokens_in=first.tokens_in + other.tokens_in,
            tokens_out=first.tokens_out + other.tokens_out,
            latency=first.latency + other.latency,
            attempt=max(first.attempt, other.attempt),
        )
    return (first, *rest)
