"""From the votes of several annotators to labels: how far they agree, and rules that make one label."""

from tiltlm.data.labels.agreement import Agreement, measure_agreement
from tiltlm.data.labels.dawid_skene import DawidSkene, fit_dawid_skene
from tiltlm.data.labels.rules import Labels, LabelSettings, make_labels
from tiltlm.data.labels.votes import VotedItem, Votes, as_votes

__all__ = [
    "Agreement",
    "DawidSkene",
    "LabelSettings",
    "Labels",
    "VotedItem",
    "Votes",
    "as_votes",
    "fit_dawid_skene",
    "make_labels",
    "measure_agreement",
]
