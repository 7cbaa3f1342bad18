"""How labels were made from votes, for the file that stands beside them."""

import hashlib
from collections.abc import Mapping
from typing import Any

from tiltlm.data.labels.dawid_skene import Uncertainty
from tiltlm.data.labels.rules import Labels
from tiltlm.data.labels.votes import NO_CHOICE, Votes
from tiltlm.version import __version__

SCHEMA = "tiltlm.labels/1"


def account_of(votes: Votes, labels: Labels, rows: list[dict[str, Any]], spread: Uncertainty | None) -> dict[str, Any]:
    """Return how the labels were made, for the file beside them."""
    single = sum(sum(row["metadata"]["votes"][kind] for kind in ("chosen", "rejected", "tie")) == 1 for row in rows)
    adjudicated = sum(item.decision != NO_CHOICE for item in votes.items)
    account: dict[str, Any] = {
        "schema": SCHEMA,
        "tiltlm": __version__,
        **labels.settings.parameters,
        "votes": votes_digest(votes),
        "items": len(votes.items),
        "labels": len(rows),
        "left_out": labels.causes,
        "single_vote": int(single),
        "undecided": sum(row["preference"] == 0.5 for row in rows),
        **({"adjudicated": adjudicated} if adjudicated else {}),
        "rows_read": votes.accounting.total,
        "rows_dropped": {cause: n.count for cause, n in votes.accounting.losses.items()},
    }
    if labels.model is not None and spread is not None:
        account["steps"] = labels.model.steps
        account["noise"] = _interval(spread.noise)
        account["annotators"] = {
            name: {"accuracy": _interval(interval), "confusion": labels.model.confusion[j].round(6).tolist()}
            for j, (name, interval) in enumerate(zip(votes.annotators, spread.accuracy, strict=True))
        }
    return account


def _interval(interval: Any) -> Mapping[str, Any]:
    return dict(vars(interval))


def votes_digest(votes: Votes) -> str:
    """Return the sha256 of all votes that count; equal votes in another order or file have the same one."""
    digest = hashlib.sha256()
    for names in ([item.id for item in votes.items], votes.annotators):
        digest.update("\0".join(names).encode("utf-8", "surrogatepass") + b"\1")
    for array in (votes.item, votes.annotator, votes.choice):
        digest.update(array.astype("<i8").tobytes())
    return digest.hexdigest()
