"""A note is its sentence, with a code that survives copies and other processes."""

import copy
import pickle

from tiltlm.core.notes import Note


def test_a_note_is_its_sentence_with_a_code():
    note = Note("values are off by 0.1", code="not_equal")
    assert note == "values are off by 0.1"
    assert f"{note}; {note.code}" == "values are off by 0.1; not_equal"
    for again in (copy.deepcopy(note), pickle.loads(pickle.dumps(note))):
        assert (again, again.code) == (note, "not_equal")
