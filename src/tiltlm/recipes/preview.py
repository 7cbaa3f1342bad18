"""What training would see: the first rows as tokens, with the mask. No weights are loaded."""

from dataclasses import replace

from tiltlm.data import Encoder, Preview, load_data
from tiltlm.data.token_preview import preview_examples as in_pieces
from tiltlm.models import load_tokenizer
from tiltlm.recipes.prepare import note_all
from tiltlm.recipes.run_settings import RunSettings

READ = 20
"""Rows read for each one shown, so that defective ones at the beginning do not leave nothing to show."""


def preview(settings: RunSettings, *, rows: int = 3) -> list[Preview]:
    """The first rows as tokens, each with the part it plays, under the settings that training would have.

    Args:
        settings: model (its tokenizer), data and objective (pairs, labels, lists or demonstrations) are used.
        rows: how many.
    """
    tokenizer, window = load_tokenizer(settings.model)
    first = replace(settings.data, limit=min(settings.data.limit or READ * rows, READ * rows), max_bad=1.0)
    objective = settings.build_objective()
    encoder = Encoder(tokenizer, tokenizer.eos_token_id, window)
    data = load_data(first, encoder, objective.shape, needs=objective.needs, uses=objective.uses)
    note_all(data.accounting.lines())
    note_all(data.notes)
    return in_pieces([*data.train, *data.held_out][:rows], data.encoder, data.end_token_id)
