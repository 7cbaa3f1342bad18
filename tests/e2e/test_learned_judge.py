"""A judge that learns in the loop: few labels are bought, all follow from files, and it labels better and better."""

import json
from pathlib import Path

import numpy as np
import pytest

import tiltlm
from support.errors import events, raises
from tiltlm.core import ConfigError, RunError
from tiltlm.judging import Item, build_judge
from tiltlm.judging.judge import Score
from tiltlm.judging.scorers.reward_model import RewardModel
from tiltlm.sampling.answers import read_answers
from tiltlm.training import loop as training
from tiltlm.worlds import TextWorld

WORLD = TextWorld()
SHORT = {
    "loop.rounds": 3,
    "loop.prompts_per_round": 8,
    "learned_judge.labels": 3,
    "learned_judge.rate": 1e-3,
    "max_new_tokens": 24,
    "max_rows": 8,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "progress": False,
}
OF_LEARNED = [key for key in SHORT if key.startswith("learned_judge.")]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in WORLD.prompts("train")[:20]))
    return path


def run(model, prompts, output, preset="d2po", **more):
    given = {"judge": "gold", **SHORT, **more}
    if preset != "d2po":
        given = {key: value for key, value in given.items() if key not in OF_LEARNED}
    return tiltlm.loop(preset=preset, model=model, data=str(prompts), output=output, **given)


@pytest.fixture(scope="module")
def done(model, prompts, tmp_path_factory):
    return run(model, prompts, tmp_path_factory.mktemp("loops") / "run")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def folder_of(done, number: int) -> Path:
    return done.path / "rounds" / f"{number:04d}"


def test_a_round_follows_from_its_files(done):
    for number, card in enumerate(done.cards):
        folder = folder_of(done, number)
        rows = {row.id: row for row in read_answers(folder / "samples.jsonl.gz")}
        gold = {key: [WORLD.reward(row.prompt, text) for text in row.answers] for key, row in rows.items()}
        bought, labels = lines(folder / "bought.jsonl"), lines(folder / "gold-verdicts.jsonl")
        assert [one["id"] for one in labels] == [one["id"] for one in bought]
        assert all(one["scores"] == gold[one["id"]] for one in labels)
        assert (card.labels, card.judgements, card.statuses) == (3, 6, {"ok": 6})
        assert card.reward.estimate == pytest.approx(np.mean([gold[one["id"]] for one in bought]))
        lesson = json.loads((folder / "learned.json").read_text())
        verdicts = {one["id"]: one for one in lines(folder / "verdicts.jsonl")}
        assert {one["judge"] for one in verdicts.values()} == {lesson["judge"]}
        agrees = [one for one in lesson["agrees"] if one is not None]
        assert card.agreement is None if not agrees else card.agreement.estimate == pytest.approx(np.mean(agrees))
        for example in lines(folder / "examples.jsonl"):
            ((chosen, _, p, _),) = example["comparisons"]
            first, second = verdicts[example["id"]]["scores"]
            assert (p, example["scores"]) == (1.0, [first, second]), "hard labels, by the sign of Δr"
            assert chosen == (0 if first > second else 1)
    judges = [json.loads((folder_of(done, k) / "learned.json").read_text())["judge"] for k in range(3)]
    assert len(set(judges)) == 3, "it moves in every round"


def test_the_first_labels_are_of_the_closest_pairs_of_the_model_it_begins_with(done, model):
    """Δr by transformers' own classifier with the same new head, before the round learned from its labels."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    scorer = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1).eval()
    scorer.config.pad_token_id = None
    tokenizer = AutoTokenizer.from_pretrained(model)
    gaps = {}
    for row in read_answers(folder_of(done, 0) / "samples.jsonl.gz"):
        values = []
        for text in row.answers:
            ids = [*tokenizer(row.prompt + text).input_ids, tokenizer.eos_token_id]
            with torch.no_grad():
                values.append(float(scorer(torch.tensor([ids])).logits))
        if row.answers[0] != row.answers[1]:
            gaps[row.id] = abs(values[0] - values[1])
    bought = {one["id"]: one["gap"] for one in lines(folder_of(done, 0) / "bought.jsonl")}
    assert set(bought) == set(sorted(gaps, key=gaps.get)[:3])
    assert all(gap == pytest.approx(gaps[key], abs=1e-5) for key, gap in bought.items())


def test_what_it_was_in_the_end_is_a_reward_model(done):
    """`judge/model` scores the samples of the last round as the learned judge did."""
    judge = build_judge(f"reward_model:{done.path / 'judge' / 'model'}")
    verdicts = {one["id"]: one["scores"] for one in lines(folder_of(done, 2) / "verdicts.jsonl")}
    rows = read_answers(folder_of(done, 2) / "samples.jsonl.gz")
    scores = [one.value for one in judge.score(Item(row.prompt, text) for row in rows for text in row.answers)]
    assert scores == pytest.approx([score for row in rows for score in verdicts[row.id]], abs=1e-5)
    kept = sorted(path.name for path in (done.path / "judge" / "checkpoints").iterdir())
    assert len(kept) == 2, "the two that resuming can need"


def test_the_page_and_the_table_show_what_it_learned(done, model, prompts, tmp_path):
    page = (done.path / "loop.html").read_text()
    assert "agreement" in page
    assert "Learned judge" in page
    table = done.to_pandas()
    assert table["labels"].tolist() == [3, 3, 3]
    assert "agreement_low" in table or all(card.agreement is None for card in done.cards)
    other = run(model, prompts, tmp_path / "other", "online_dpo", **{"loop.rounds": 1})
    assert not {"labels", "agreement", "judge_diverged"} & set(other.to_pandas())
    assert "agreement" not in (other.path / "loop.html").read_text()
    assert not (other.path / "judge").exists()


class Perfect:
    """A reward model that scores as the world does."""

    def score(self, items):
        for item in items:
            yield Score(WORLD.reward(item.prompt, item.response))


def test_with_a_perfect_learned_judge_it_is_online_dpo(model, prompts, tmp_path, monkeypatch):
    """With hard labels, the judge's own and those of a learned judge that agrees with it are the same training."""
    same = {"objective.beta": 0.1, "examples.soft": False}
    plain = run(model, prompts, tmp_path / "plain", "online_dpo", **same)
    monkeypatch.setattr(RewardModel, "score", Perfect.score)
    learned = run(model, prompts, tmp_path / "learned", **same)
    for number in range(3):
        one, other = (lines(folder_of(found, number) / "examples.jsonl") for found in (plain, learned))
        assert one == other
    weights = [(found.path / "model" / "model.safetensors").read_bytes() for found in (plain, learned)]
    assert weights[0] == weights[1]
    assert [card.judgements for card in plain.cards] == [16, 16, 16]
    assert [card.judgements for card in learned.cards] == [6, 6, 6]


def test_labels_are_the_budget(model, prompts, tmp_path):
    found = run(model, prompts, tmp_path / "run", **{"stop.judgements": 12})
    assert (len(found.cards), found.stop.rule) == (2, "judgements")
    assert sum(card.labels for card in found.cards) == 6


def test_more_labels_than_pairs_buys_all_pairs(model, prompts, tmp_path):
    found = run(model, prompts, tmp_path / "run", **{"loop.rounds": 1, "learned_judge.labels": 100, "loop.n": 2})
    rows = read_answers(folder_of(found, 0) / "samples.jsonl.gz")
    assert found.cards[0].labels == sum(row.answers[0] != row.answers[1] for row in rows)


def test_a_judge_that_compares_teaches_too(model, prompts, tmp_path):
    """A panel of scorers: both orders of each bought pair, soft labels, and several pairs of a prompt."""
    panel = {"kind": "panel", "judges": ["gold", "length"]}
    more = {"loop.n": 3, "examples.rule": "all_pairs", "examples.soft": True, "learned_judge.labels": 12}
    found = run(model, prompts, tmp_path / "run", judge=panel, unaudited=True, **{"loop.rounds": 2, **more})
    assert [card.labels for card in found.cards] == [12, 12]
    assert found.cards[0].reward is None
    assert sum(found.cards[0].statuses.values()) == 12
    verdicts = {one["id"]: one["scores"] for one in lines(folder_of(found, 1) / "verdicts.jsonl")}
    for example in lines(folder_of(found, 1) / "examples.jsonl"):
        assert all(score in verdicts[example["id"]] for score in example["scores"])
        for chosen, rejected, p, _ in example["comparisons"]:
            gap = example["scores"][chosen] - example["scores"][rejected]
            assert p == pytest.approx(1 / (1 + np.exp(-gap))), "its scores are nats, whatever the judge's scale is"


def test_it_begins_with_the_reward_model_that_is_named(done, model, prompts, tmp_path):
    """What one loop has taught a judge, another one goes on with."""
    taught = str(done.path / "judge" / "model")
    found = run(model, prompts, tmp_path / "run", **{"loop.rounds": 1, "learned_judge.model": taught})
    gaps = [one["gap"] for one in lines(folder_of(found, 0) / "bought.jsonl")]
    judge = build_judge(f"reward_model:{taught}")
    rows = {row.id: row for row in read_answers(folder_of(found, 0) / "samples.jsonl.gz")}
    for gap, one in zip(gaps, lines(folder_of(found, 0) / "bought.jsonl"), strict=True):
        row = rows[one["id"]]
        first, second = (score.value for score in judge.score(Item(row.prompt, text) for text in row.answers))
        assert gap == pytest.approx(abs(first - second), abs=1e-5)
    measured = {"learned_judge.model": taught, "held_out_judge": f"reward_model:{taught}"}
    with raises(ConfigError, "same_judge"):
        run(model, prompts, tmp_path / "held", **measured)


def verdicts_of(found, number: int) -> list[dict]:
    return lines(folder_of(found, number) / "verdicts.jsonl")


@pytest.mark.parametrize("way", ["loss", "weights", "scores"])
def test_one_that_diverges_stays_as_it_was(model, prompts, tmp_path, monkeypatch, caplog, way):
    """Its loss, its weights or its scores are not finite after round 1: the labels are those of its version before."""
    number = {"calls": 0}

    def in_round_1(value, bad):
        def replaced(*args):
            number["calls"] += 1
            return bad if number["calls"] == 4 else value(*args)  # in each round one step of its own, two of the policy

        return replaced

    score = RewardModel.score

    def scored(self, items):
        number["calls"] += 1  # in each round before it learns, after that, and at last for the examples
        found = list(score(self, items))
        return iter([Score(None, "the score is nan")] * len(found) if number["calls"] == 5 else found)

    if way == "loss":
        monkeypatch.setattr(training, "is_good", in_round_1(training.is_good, False))
    elif way == "weights":
        monkeypatch.setattr(training, "ruined_weights", in_round_1(training.ruined_weights, ["score.weight"]))
    else:
        monkeypatch.setattr(RewardModel, "score", scored)
    found = run(model, prompts, tmp_path / "run", **{"learned_judge.epochs": 1, "learned_judge.batch": 64})
    assert [one.round for one in events(caplog, "learned_judge_diverged")] == [1]
    assert [card.judge_diverged for card in found.cards] == [False, True, False]
    judges = [verdicts_of(found, number)[0]["judge"] for number in range(3)]
    assert judges[1] == judges[0]
    assert judges[2] != judges[0]
    assert [caution["key"] for caution in json.loads((found.path / "loop.json").read_text())["cautions"]] == [
        "judge_diverged"
    ]


def test_its_weights_are_never_replaced_in_silence(model, prompts, tmp_path):
    steady = {"warmup_ratio": 0.0}
    found = run(model, prompts, tmp_path / "run", **{**steady, "loop.rounds": 2})
    folder = found.path / "judge" / "checkpoints"
    newest = max(folder.iterdir())
    (newest / "policy.safetensors").unlink()
    with raises(RunError, "missing_weights", key="learned_judge.labels", mentions=[str(newest)]):
        run(model, prompts, tmp_path / "run", resume=True, **{**steady, "loop.rounds": 3})
    newest.rename(folder / "elsewhere")
    with raises(RunError, "missing_weights", mentions=[str(newest)]):
        run(model, prompts, tmp_path / "run", resume=True, **{**steady, "loop.rounds": 3})


def test_old_labels_are_not_used_once_it_has_moved(model, prompts, tmp_path):
    """Labels with another digest than the learned judge has after the round are made again."""
    found = run(model, prompts, tmp_path / "run", **{"loop.rounds": 1})
    path, state = folder_of(found, 0) / "verdicts.jsonl", folder_of(found, 0) / "state.json"
    whole, model_bytes = path.read_bytes(), (found.path / "model" / "model.safetensors").read_bytes()
    stale = [{**one, "scores": one["scores"][::-1], "judge": "that of before"} for one in lines(path)]
    path.write_text("".join(json.dumps(one) + "\n" for one in stale))
    state.unlink()  # as if the process had ended before the round was closed
    for checkpoint in (found.path / "checkpoints").iterdir():
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    run(model, prompts, tmp_path / "run", resume=True, **{"loop.rounds": 1})
    assert path.read_bytes() == whole
    assert (found.path / "model" / "model.safetensors").read_bytes() == model_bytes


def test_a_replay_teaches_it_again_from_the_recorded_labels(done, model, prompts, tmp_path, monkeypatch):
    """The judge is not asked. The same settings give the same labels and weights, another rate other labels."""

    def refuse(*_):
        raise AssertionError("the judge was asked")

    monkeypatch.setattr(TextWorld, "reward", refuse)
    config = str(done.path / "config.yaml")
    again = tiltlm.loop(config, replay=done.path, output=tmp_path / "again", progress=False)
    for name in ("verdicts.jsonl", "examples.jsonl", "learned.json", "gold-verdicts.jsonl"):
        assert (folder_of(again, 2) / name).read_bytes() == (folder_of(done, 2) / name).read_bytes()
    weights = [(folder.path / "model" / "model.safetensors").read_bytes() for folder in (again, done)]
    assert weights[0] == weights[1]
    faster = {"learned_judge.rate": 3e-3}
    other = tiltlm.loop(config, replay=done.path, output=tmp_path / "other", progress=False, **faster)
    assert (folder_of(other, 0) / "bought.jsonl").read_bytes() == (folder_of(done, 0) / "bought.jsonl").read_bytes()
    assert verdicts_of(other, 2) != verdicts_of(done, 2)
    of_labels = run(model, prompts, tmp_path / "plain", "online_ipo", replay=done.path)
    assert verdicts_of(of_labels, 0) == verdicts_of(done, 0), "other objectives may train on its labels"
    for settings in ({"learned_judge.labels": 2}, {"learned_judge.choose": "random"}):
        (key,) = settings
        with raises(ConfigError, "no_effect", key=key):
            tiltlm.loop(config, replay=done.path, output=tmp_path / "none", progress=False, **settings)


def test_a_loop_without_one_has_no_labels_to_replay(model, prompts, tmp_path):
    plain = run(model, prompts, tmp_path / "plain", "online_dpo", **{"loop.rounds": 1})
    with raises(ConfigError, "no_labels", key="replay"):
        run(model, prompts, tmp_path / "run", replay=plain.path)


@pytest.mark.parametrize(
    ("settings", "code", "key"),
    [
        ({"preset": "rloo", "objective": None}, "not_supported", "examples.rule"),
        ({"preset": "raft", "objective": None}, "not_supported", "examples.rule"),
        ({"preset": "spin", "objective": None, "judge": None}, "no_effect", "learned_judge.labels"),
        ({"rivals.n": 1, "loop.n": 1}, "not_supported", "rivals.n"),
        ({"loop.past_rounds": 1}, "not_supported", "loop.past_rounds"),
        ({"judge": "grade:self", "unaudited": True, "held_out_judge": "gold"}, "conflict", "learned_judge.labels"),
        ({"learned_judge.labels": 0}, "no_effect", "learned_judge.rate"),
        ({"learned_judge.choose": "nearest"}, None, None),
        ({"held_out_judge": "gold"}, "same_judge", "judge"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_draw(model, prompts, tmp_path, settings, code, key):
    given = {"preset": "d2po", "judge": "gold", **SHORT, **settings}
    given = {name: value for name, value in given.items() if name != "objective" or value is not None}
    if code is None:
        with pytest.raises(ConfigError):
            tiltlm.loop(model=model, data=str(prompts), output=tmp_path / "run", **given)
    else:
        with raises(ConfigError, code, key=key):
            tiltlm.loop(model=model, data=str(prompts), output=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def accuracy(found, number: int) -> float:
    """Return how often the learned judge's labels agree with the world, over pairs that were not bought."""
    scores = {one["id"]: one["scores"] for one in verdicts_of(found, number)}
    bought = {one["id"] for one in lines(folder_of(found, number) / "bought.jsonl")}
    right = []
    for row in read_answers(folder_of(found, number) / "samples.jsonl.gz"):
        gold = [WORLD.reward(row.prompt, text) for text in row.answers]
        if gold[0] != gold[1] and row.id not in bought:
            right.append((scores[row.id][0] > scores[row.id][1]) == (gold[0] > gold[1]))
    return float(np.mean(right))


@pytest.mark.slow
def test_it_labels_better_and_better(model, tmp_path):
    """Pairs that nobody labelled: little better than chance after 16 labels, nearly all right after 96."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in WORLD.prompts("train")))
    large = {"loop.rounds": 6, "loop.prompts_per_round": 64, "learned_judge.labels": 16, "max_new_tokens": 32}
    found = run(model, path, tmp_path / "run", **large, max_rows=1024, batch_size=32, learning_rate=4e-4)
    assert accuracy(found, 0) < 0.75
    assert min(accuracy(found, number) for number in (4, 5)) > 0.8
