"""Fingerprint rows by their meaning: the same rows in another file, format or order have the same fingerprint.

`tiltlm.data.cache.fingerprints.fingerprint` is another number: that of a run's examples, as tokens and in order. It
decides the order of training and changes with the tokenizer. The fingerprint here needs no tokenizer.
"""

import hashlib
import json

import numpy as np

from tiltlm.data.rows.cells import Content
from tiltlm.data.rows.records import Record

SIZE = 32
"""Bytes of a digest of a row."""


def record_digest(record: Record) -> bytes:
    """Return the sha256 of a record's content.

    It has everything that training could read: prompt, responses, comparisons, labels, ranks, scores, reference values,
    weight, system turn, tools and template settings. Location, id and source are not part of it. Where the prompt of a
    conversation ends is not part of it either, because a setting decides it (`data.assistant_turns`).
    """
    facts = [
        [_whole(record.prompt, response) for response in record.responses] or [record.prompt],
        [(c.chosen, c.rejected, c.weight, c.preference, c.offset) for c in record.comparisons],
        record.labels,
        record.ranks,
        record.scores,
        record.ref_logps,
        record.weight,
        record.system,
        record.tools,
        dict(record.template_kwargs),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=vars).encode()).digest()


def _whole(prompt: Content, response: Content) -> object:
    """Return a conversation as one list of turns; text and token ids as prompt and response."""
    return [*prompt, *response] if isinstance(prompt, tuple) and isinstance(response, tuple) else (prompt, response)


def content_fingerprint(digests: bytes | bytearray) -> str:
    """Return the fingerprint of rows in any order, in hexadecimal: the sha256 of their digests, sorted and joined.

    Args:
        digests: `record_digest` of each row, joined. A row that occurs twice counts twice.
    """
    return hashlib.sha256(np.sort(np.frombuffer(digests, f"S{SIZE}")).tobytes()).hexdigest()
