"""What is lost when a record is written in another tool's format, by cause.

Nothing is lost in silence: what a format has no room for is counted here, as are rows that it cannot hold.
"""

from collections.abc import Mapping

from tiltlm.data.accounting import RowCounts

Losses = dict[str, RowCounts]

LOST: Mapping[str, str] = {
    "defects": "the row cannot be read, and is left out",
    "columns": "columns without a role are not written",
    "details": "what the format has beside the columns that are read is not written",
    "votes": "the numbers of votes become a share, the preference",
    "ties": "a tie has no place in this format, and is left out",
    "soft_labels": "a preference between 0 and 1 is written as a certain one",
    "lists": "lists of more than two responses become pairs, one for each two of different rank or score",
    "pairing": "a pair becomes two rows that are not compared",
    "rejected": "only the best response is written",
    "labels": "only desirable responses are written",
    "scores": "scores are not written; only their order is, if at all",
    "ranks": "the ranks are not written; only which of two responses is better",
    "comparison_weights": "weights of comparisons are not written",
    "score_order": "the scores say the opposite of the preference, and the format has only scores; the row is left out",
    "no_scores": "the row has no scores, which the format needs, and is left out",
    "offset": "the margin in `offset` is not written",
    "weight": "the weight of the row is not written",
    "system": "the system turn is not written",
    "tools": "the tools are not written",
    "chat_template_kwargs": "variables of the chat template are not written",
    "ref_logps": "reference log-probabilities are not written",
    "tokens": "token ids have no place in this format; the row is left out",
    "turns": "the turns of the conversation have no place in this format; the row is left out",
    "turn_keys": "tool calls and other keys of turns have no place in this format; the row is left out",
    "no_prompt": "the row has no prompt, which the format needs, and is left out",
}
"""Causes for which something is lost, and their meaning."""


def count_loss(losses: Losses, cause: str, location: str, detail: str = "") -> None:
    """Count one row from which something is lost."""
    assert cause in LOST, cause
    losses.setdefault(cause, RowCounts()).add(location, detail)
