"""Show what training would see: the first rows as tokens with the scored ones marked. No weights are loaded."""

from tiltlm.data import Encoder, load_data
from tiltlm.data.token_preview import Previews, preview_examples
from tiltlm.models import load_tokenizer
from tiltlm.objectives.terms import reads_scores
from tiltlm.recipes.prepare import note_all
from tiltlm.recipes.run_settings import RunSettings, few_rows


def preview(settings: RunSettings, *, rows: int = 3) -> Previews:
    """Return the first rows as tokens with their roles, read as training would read them.

    Args:
        settings: Model (its tokenizer), data and objective (it decides the shape of the data) are used.
        rows: Number of rows.
    """
    tokenizer, window, num_embeddings, notes = load_tokenizer(settings.model)
    note_all(notes)
    objective = settings.build_objective()
    encoder = Encoder(
        tokenizer,
        tokenizer.eos_token_id,
        window,
        num_embeddings=num_embeddings,
        reads_whole=reads_scores(objective),
    )
    first = few_rows(settings.data, rows)
    data = load_data(first, encoder, objective.shape, needs=objective.needs, uses=objective.uses, is_whole=False)
    note_all(data.accounting.lines())
    note_all(data.notes)
    return preview_examples([*data.train, *data.held_out][:rows], data.encoder, data.end_token_id)
