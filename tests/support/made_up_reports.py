"""Small made-up reports with numbers that are easy to follow."""

from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

from tiltlm.diagnostics import Attainment, Displacement, Interval
from tiltlm.evaluation import (
    Change,
    Contrast,
    Gold,
    HeldOut,
    Line,
    SampleComparison,
    SampleNumbers,
    SampleText,
)
from tiltlm.evaluation.ches import Ches
from tiltlm.evaluation.pair_weights import PairWeights
from tiltlm.evaluation.probability import Probability
from tiltlm.evaluation.third_responses import ProbabilityShift
from tiltlm.report import RunReport, series_of

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}{% raw %}</style></main>"


def interval(estimate: float, half: float = 0.1, n: int = 100) -> Interval:
    """Return an interval of this half-width."""
    return Interval(estimate, estimate - half, estimate + half, 0.95, n)


def change(before: float, after: float, half: float = 0.1) -> Change:
    """Return a change whose three intervals have this half-width."""
    return Change(interval(before, half), interval(after, half), interval(after - before, half))


def contrast(accuracy: Change | None = None, margin: Change | None = None, **changes) -> Contrast:
    """Return a contrast of pairs that improved, is not displaced and beats the length rule."""
    made = Contrast(
        kind="pairs",
        num_comparisons=100,
        num_label_ties=0,
        label_loss=change(0.693, 0.6, 0.02),
        accuracy=accuracy or change(0.5, 0.7, 0.05),
        margin=margin or change(0.0, 0.4),
        ties=0.0,
        better=change(-2.0, -1.8),
        worse=change(-2.0, -2.5),
        seq_accuracy=change(0.51, 0.55, 0.05),
        mean_accuracy=change(0.52, 0.6, 0.05),
        displacement=Displacement(*(interval(x) for x in (3.0, -5.0, 0.3))),
        length_rule="longer",
        length_accuracy=interval(0.53, 0.05),
        length_advantage=interval(0.17, 0.05),
    )
    return replace(made, **changes)


def held_out(made: Contrast | None = None, nll: Change | None = None, **changes) -> HeldOut:
    """Return held-out numbers of 100 rows with 100 prompts."""
    settings = {"num_examples": 100, "num_prompts": 100, "starts_at_reference": True, "shift": interval(4.0)} | changes
    return HeldOut(contrast=made, nll=nll, **settings)


def samples(kl: float | None = 1.5, length: float = 24.0, cut_share: float = 0.0, texts=()) -> SampleComparison:
    """Return samples whose length before training is 23 tokens."""

    def numbers(kl: float | None, length: float) -> SampleNumbers:
        estimate = None if kl is None else interval(kl)
        return SampleNumbers(estimate, estimate, interval(length, 1.0), cut_share)

    before = None if kl is None else 0.0
    shown = texts or (SampleText("Where is it?", ("In the hall.",), ("Hello, in the hall!",), (1.0,), (3.0,)),)
    return SampleComparison(48, 4, 64, numbers(before, 23.0), numbers(kl, length), interval(length - 23, 0.5), shown)


def gold(gain: float = 1.0, policy: float = 3.0, attainable: float = 3.2, effective_samples: float = 120.0) -> Gold:
    """Return gold rewards of a policy that has 80 % of the attainable gain."""
    return Gold(
        reward_name="courtesies",
        levels=(0.0, 1.0, 2.0, 3.0, 4.0),
        num_prompts=48,
        policy_samples=16,
        reference_samples=256,
        attainment=Attainment(
            reference=interval(policy - gain),
            policy=interval(policy),
            gain=interval(gain),
            kl=interval(0.9),
            attainable=interval(attainable),
            share=interval(0.8),
            effective_samples=effective_samples,
        ),
        win_rate=interval(0.75, 0.04),
        tilt=Line((float("inf"), 2.0, 1.0), (0.0, 0.5, 1.2), (2.0, 2.8, 3.5), (1.9, 2.7, 3.3), (2.1, 2.9, 3.6)),
        best_of_n=Line((1.0, 2.0, 4.0), (0.0, 0.2, 0.6), (2.0, 2.4, 2.85), (1.9, 2.3, 2.7), (2.1, 2.5, 2.9)),
    )


def probability(top_token: float = -0.2, heaviest_tenth: float = 0.2) -> Probability:
    """Return changes of probability of which none is a caution."""
    shift = ProbabilityShift(
        samples=interval(-1.5),
        greedy=interval(-1.0),
        others=interval(-0.5),
        top_token=interval(top_token),
        top_token_before=interval(-0.7),
        greedy_changed=interval(0.6),
    )
    ches = Ches(100, {"5 %": -9.0, "50 %": -4.0, "95 %": -1.0}, interval(-0.3))
    return Probability(shift, ches, PairWeights(change(0.5, 0.4), (1.0, 0.8), (0.1, heaviest_tenth)))


def history(num_steps: int = 6) -> list[dict[str, object]]:
    """Return records as in metrics.jsonl."""
    records: list[dict[str, object]] = []
    for step in range(1, num_steps + 1):
        metrics = {"rewards/margins": 0.1 * step, "logps_per_token/chosen": -2.0, "logps_per_token/rejected": -2.1}
        records.append({"step": step, "loss": 1 / step, "grad_norm": 1.0, **metrics})
        records.append({"step": step, "eval_loss": 1.1 / step, "eval_rewards/accuracies": 0.6, "eval_seconds": 2.0})
    return records


DATA = {
    "total": 200,
    "train": 150,
    "held_out": 40,
    "dropped": 10,
    "losses": {"empty_response": {"rows": 10, "meaning": "a response is empty", "examples": ["rows.jsonl:7: ''"]}},
    "changes": {},
    "tokens": {"prompt": {"mean": 12.4, "median": 11.0, "p95": 20.0, "max": 31.0}},
}


def whole(**changes) -> RunReport:
    """Return a report with every part."""
    parts = {
        "title": "dpo on some pairs",
        "facts": {"Model": "tiny-lm", "Objective": "dpo (beta 0.1)"},
        "held_out": held_out(contrast()),
        "samples": samples(),
        "gold": gold(),
        "probability": probability(),
        "series": series_of(history()),
        "data": DATA,
        "config": {"objective": {"name": "dpo", "beta": 0.1}},
        "versions": {"torch": "2.13.0"},
        "digests": {"model": "abc123"},
        "notes": ("layout shared",),
        "command": "tiltlm train run.yaml",
        "created": "2026-11-20T12:00:00+00:00",
    }
    return RunReport(**parts | changes)


def quick(**changes) -> RunReport:
    """Return a report without curves, which take the longest to draw."""
    return whole(**{"series": ()} | changes)


class Page(HTMLParser):
    """A strict parser: it requires that elements are closed in order, and collects tags, attributes and text."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr", "wbr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.continues = False
        self.feed(html)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.continues = tag == "wbr"
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element, line {self.getpos()[0]}"

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            if self.continues:
                data = self.text.pop() + data
            self.text.append(data)
        self.continues = False

    def visible_text(self) -> str:
        """Return all text that a reader sees, with single spaces; no-break spaces count as spaces."""
        return " ".join(" ".join(self.text).split())

    def named(self, attribute: str) -> list[str]:
        """Return the values of an attribute in the order of the page, such as `id` or `data-caution`."""
        return [value for _, name, value in self.attributes if name == attribute]

    def loads(self) -> list[str]:
        """Return the addresses that a browser would load or follow, without those within the page."""
        names = {"href", "src", "srcset", "action", "data", "poster", "background", "formaction"}
        return [v for tag, name, v in self.attributes if name in names and not v.startswith("#") and v != "data:,"]
