"""Making projects: where pairs come from, what is left out, gold, order, and going on."""

import json

import pytest
from sqlalchemy import select

from support.errors import raises
from tiltlm.core import ConfigError, DataError
from tiltlm.labeling.store.database import reading
from tiltlm.labeling.store.pairs import NewPair
from tiltlm.labeling.store.projects import read_guidelines
from tiltlm.labeling.store.tables import pair, prompt, response
from tiltlm.recipes.answers.judged import Pairing
from tiltlm.recipes.labeling.pairs.candidates import Candidate
from tiltlm.recipes.labeling.pairs.cleaning import clean, describe
from tiltlm.recipes.labeling.pairs.requests import MarginSettings, PrepareRequest, SourceRequest
from tiltlm.recipes.labeling.pairs.selecting import farthest_first
from tiltlm.recipes.labeling.preparing import count_pairs, prepare


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def made(database, *sources, settings=None, gold=None, guidelines=None, keep_all=False, margins=None, **source):
    request = PrepareRequest(
        database,
        SourceRequest(tuple(map(str, sources)), **source),
        settings or {},
        gold=gold,
        guidelines=guidelines,
        keep_all=keep_all,
        margins=margins or MarginSettings(),
    )
    return prepare(request)


def pairs_of(project):
    a, b = response.alias(), response.alias()
    columns = (pair.c.key, pair.c.kind, pair.c.answer, prompt.c.content, prompt.c.system, a.c.content.label("a"))
    columns += (b.c.content.label("b"), a.c.model.label("first"), b.c.model.label("second"), a.c.sampling)
    joined = pair.join(prompt).join(a, a.c.id == pair.c.a_id).join(b, b.c.id == pair.c.b_id)
    with reading(project.engine) as connection:
        query = select(*columns, pair.c.priority, pair.c.source).select_from(joined).order_by(pair.c.key)
        return list(connection.execute(query))


def test_pairs_of_a_file_keep_their_ids(database, tmp_path):
    rows = [
        {"id": "x", "prompt": "Why?", "chosen": "Because it is so.", "rejected": "I do not know.", "source": "web"},
        {"id": "y", "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "And?"}],
         "chosen": "No more to say.", "rejected": "There is something."},
    ]  # fmt: skip
    project = made(database, write(tmp_path / "pairs.jsonl", rows))
    x, y = pairs_of(project)
    assert (x.key, x.kind, x.content, x.a, x.source) == ("x", "task", '"Why?"', '"Because it is so."', "web")
    assert (y.content, y.system) == ('"And?"', '"Be brief."')


def test_lists_become_pairs(database, tmp_path):
    row = {"id": "x", "prompt": "Why?", "completions": ["one thing", "two things", "three things", "two things"]}
    row |= {"ranks": [1, 2, 3, 4], "model": "small", "temperature": 0.7}
    project = made(database, write(tmp_path / "lists.jsonl", [row]))
    found = pairs_of(project)
    assert [one.key for one in found] == ["x/0-1", "x/0-2", "x/0-3", "x/1-2", "x/2-3"]
    assert (found[0].first, json.loads(found[0].sampling)) == ("small", {"index": 0, "temperature": 0.7})


def test_random_pairs_of_lists(database, tmp_path):
    rows = [{"prompt": f"p{k}", "completions": ["one a", "two b", "three c"], "ranks": [1, 2, 3]} for k in range(4)]
    project = made(database, write(tmp_path / "lists.jsonl", rows), comparisons=Pairing.of("random:1"))
    assert len(pairs_of(project)) == 4


def answers(path, name, texts):
    rows = [
        {"id": f"q{k}", "prompt": f"Question {k}?", "completions": [text], "model": name, "temperature": 1.0,
         "completions_ended": [True]}
        for k, text in enumerate(texts)
    ]  # fmt: skip
    return write(path, rows)


def test_systems_side_by_side(database, tmp_path):
    one = answers(tmp_path / "one.jsonl", "m1", ["yes it is", "no way", "maybe so"])
    two = answers(tmp_path / "two.jsonl", "m2", ["surely not", "no way", "who knows"])
    project = made(database, one, f"other={two}")
    found = pairs_of(project)
    assert sorted((row.first, row.second, row.a) for row in found) == [
        ("one", "other", '"maybe so"'),
        ("one", "other", '"yes it is"'),
    ]


@pytest.mark.parametrize(
    ("texts", "ended", "cause"),
    [
        (("same", "same"), (True, True), "identical"),
        (("", "text"), (True, True), "empty"),
        (("it was cut", "it was not"), (True, False), "unfinished"),
        (("I am ChatGPT, hello", "Hello there"), (True, True), "names_its_maker"),
        ((" ".join(map(str, range(100))), " ".join(map(str, range(101)))), (True, True), "near_identical"),
        (("an answer", "another one"), (True, True), None),
    ],
)
def test_what_is_left_out(texts, ended, cause):
    one = Candidate(NewPair("Who are you?", *texts), texts, ended)
    found = clean([one])
    assert list(found.left_out) == ([] if cause is None else [cause])
    assert len(clean([one], keep_all=True).kept) == (cause != "identical")
    assert len(found.lines()) == (cause is not None)


def test_a_maker_that_the_prompt_names_may_be_named():
    texts = ("OpenAI made GPT-4.", "It is a model.")
    assert clean([Candidate(NewPair("What is GPT-4 by OpenAI?", *texts), texts)]).kept
    assert not clean([Candidate(NewPair("What is it?", *texts), texts)]).kept


def test_the_description_of_pairs():
    texts = ("one two three", "four five six")
    lines = describe([Candidate(NewPair(f"prompt number {k} of many other ones", *texts), texts) for k in range(3)])
    assert lines[0].startswith("3 pairs on 3 prompts")
    assert "1.00 on average" in lines[1]
    assert describe([]) == []


def test_gold_and_calibration(database, tmp_path):
    data = write(tmp_path / "pairs.jsonl", [{"prompt": f"p{k}", "chosen": "a b", "rejected": "c d"} for k in range(3)])
    gold = write(
        tmp_path / "gold.jsonl",
        [{"prompt": f"g{k}", "chosen": "right one", "rejected": "wrong one", "explanation": "see"} for k in range(8)]
        + [{"prompt": "p0", "chosen": "a b", "rejected": "c d"}],
    )
    project = made(database, data, gold=gold, settings={"calibration": 3})
    assert count_pairs(project) == {"task": 2, "gold": 6, "calibration": 3}
    answers = {row.answer for row in pairs_of(project) if row.kind != "task"}
    assert answers == {"a", "b"}, "the right answer is as often a as b"
    for row in pairs_of(project):
        if row.kind != "task" and "right" in row.a + row.b:
            assert "right" in (row.a if row.answer == "a" else row.b)
    assert project.settings.calibration == 3
    with raises(ConfigError, "out_of_range", key="--calibration"):
        made(str(tmp_path / "other.db"), data, gold=gold, settings={"calibration": 10})


def test_going_on_changes_what_is_given_and_nothing_else(database, tmp_path):
    rows = [{"id": str(k), "prompt": f"p{k}", "chosen": "a b", "rejected": "c d"} for k in range(4)]
    data = write(tmp_path / "pairs.jsonl", rows[:2])
    made(database, data, settings={"overlap": 3, "title": "First"}).close()
    guidelines = tmp_path / "guide.md"
    guidelines.write_text("# Be fair\n")
    project = made(database, write(tmp_path / "more.jsonl", rows), settings={"title": "Second"}, guidelines=guidelines)
    assert (project.settings.overlap, project.settings.title) == (3, "Second")
    assert len(pairs_of(project)) == 4
    with reading(project.engine) as connection:
        assert read_guidelines(connection) == (2, "# Be fair\n")
    with raises(ConfigError, "no_effect", key="--n"):
        made(database, n=4)
    again = made(database)
    assert (again.settings.overlap, again.settings.title) == (3, "Second")


def test_uncertain_by_a_column(database, tmp_path):
    rows = [{"id": n, "prompt": n, "chosen": "a b", "rejected": "c d", "margin": m} for n, m in (("x", -3.0), ("y", 1))]
    project = made(database, write(tmp_path / "pairs.jsonl", rows), settings={"select": "uncertain"})
    assert [(row.key, row.priority) for row in pairs_of(project)] == [("x", 3.0), ("y", 1.0)]


def test_diverse_prompts_come_first():
    like = [f"please tell me about the number {k} in a few short words" for k in (1, 2, 3)]
    texts = [*like, "why is the sky blue at noon and red at night", "write a poem on rivers for my old friend"]
    pairs = [NewPair(text, "a", "b") for text in texts for _ in range(1)]
    places = farthest_first(pairs)
    first_three = {k for k, place in enumerate(places) if place < 3}
    assert len(first_three & {0, 1, 2}) == 1
    assert first_three >= {3, 4}
    assert farthest_first(pairs[::-1]) == places[::-1], "the order of the data changes nothing"
    twice = farthest_first([*pairs, *(NewPair(one.prompt, "a", "c") for one in pairs)])
    assert sorted(twice) == list(range(10))
    by_round = [sorted(place for text, place in zip(texts * 2, twice, strict=True) if text == t) for t in texts]
    assert all(first < 5 <= second for first, second in by_round)


def test_errors(database, tmp_path):
    with raises(DataError, "no_such_path", key="database"):
        made(database)
    single = write(tmp_path / "single.jsonl", [{"prompt": "p", "completion": "c", "label": True}])
    with raises(DataError, "wrong_data_shape", key="SOURCE"):
        made(database, single)
    same = write(tmp_path / "same.jsonl", [{"prompt": "p", "chosen": "I am ChatGPT", "rejected": "no"}])
    with raises(DataError, "no_rows_left", key="SOURCE"):
        made(database, same)
    with raises(ConfigError, "unknown_name", key="--comparisons"):
        made(database, same, comparisons=Pairing.of("best_worst"))
