"""The reference pass over data of any size: a part at a time, nothing left out, rows of one prompt together."""

import pytest

from support.errors import has_event
from tiltlm.core import Example, Response, token_ids
from tiltlm.data import assign_partners
from tiltlm.distributed import Ranks
from tiltlm.recipes import prepare
from tiltlm.recipes.prepare import all_trees, chunks, ensure_reference
from tiltlm.recipes.progress import silent
from tiltlm.reference import Computed, Reference


class Recording(Reference):
    """Keeps the sequences of every call; one of them is reported as stored."""

    def __init__(self):
        self.calls = []

    def ensure(self, trees, progress=None):
        asked = [(tree.prompt_ids.tobytes(), r.token_ids.tobytes()) for tree in trees for r in tree.responses]
        self.calls.append(asked)
        progress(len(asked), len(asked))
        return Computed(1, len(asked) - 1)


def examples_of(prompts):
    return [
        Example(str(i), token_ids([1, p]), tuple(Response(token_ids([k, 9 + i])) for k in (2, 3)))
        for i, p in enumerate(prompts)
    ]


@pytest.mark.parametrize("partners", [False, True])
def test_every_sequence_once_and_prompts_together(monkeypatch, partners, caplog):
    monkeypatch.setattr(prepare, "CHUNK", 4)
    examples = examples_of([0, 1, 2, 3, 0, 1, 2, 3, 4])
    examples = assign_partners(examples, 10) if partners else examples
    reference, progress = Recording(), []
    caplog.set_level("DEBUG")
    ensure_reference(reference, examples, lambda *args: progress.append(args), Ranks())
    asked = [sequence for call in reference.calls for sequence in call]
    everything = [(t.prompt_ids.tobytes(), r.token_ids.tobytes()) for t in all_trees(examples) for r in t.responses]
    assert sorted(asked) == sorted(everything)
    assert len(everything) == (36 if partners else 18)
    assert len(reference.calls) == 3
    assert [len({prompt for prompt, _ in call}) for call in reference.calls] == [2, 2, 1]
    done = [done for _, done, _ in progress]
    assert done == sorted(done)
    assert has_event(caplog, "reference_pass", stored=3, computed=len(everything) - 3)


def test_few_examples_are_one_part():
    examples = examples_of([0, 1, 0])
    assert list(chunks(examples)) == [examples]
    reference = Recording()
    ensure_reference(reference, examples, silent, Ranks())
    assert len(reference.calls) == 1
