"""Two runs are compared: only what differs is shown, and results with their intervals."""

import json

import pytest

from support.errors import raises
from support.run_folders import CONFIG, REPORT, interval, make_run
from tiltlm.core import ConfigError
from tiltlm.recipes.runs.difference import compare_runs


def by_key(changes) -> dict:
    return {one.key: (one.a, one.b) for one in changes}


@pytest.fixture
def two(tmp_path):
    """Two runs that differ in β, a LoRA section, a version, the data and their results."""
    config = {**CONFIG, "objective": {"name": "dpo", "beta": 0.5}, "model": {"path": "/models/tiny", "lora": {"r": 8}}}
    prompts = {"p1": 1.0, "p2": 0.0, "p3": 1.0, "p4": 1.0}
    for name, own, mid in (("a", CONFIG, 0.7), ("b", {**config, "output": "elsewhere"}, 0.75)):
        contrast = {"accuracy": {"after": interval(mid)}, "margin": {"after": interval(10 * mid)}}
        by_prompt = prompts if name == "a" else {**prompts, "p2": 1.0}
        held_out = {"contrast": contrast, "accuracy_by_prompt": by_prompt}
        run = make_run(
            tmp_path / name, ending={"state": "finished"}, config=own, report={**REPORT, "held_out": held_out}
        )
        (run / "versions.json").write_text(json.dumps({"torch": "2.13", "tiltlm": "0.1" if name == "a" else "0.2"}))
        (run / "digests.json").write_text(json.dumps({"model": "m", "reference": "r", "data": name}))
        data = {"total": 10, "losses": {} if name == "a" else {"empty": 3}, "content": {"held_out": "h"}}
        (run / "data.json").write_text(json.dumps(data))
    return tmp_path / "a", tmp_path / "b"


def test_only_what_differs_is_shown(two):
    found = compare_runs(*two)
    assert by_key(found.settings) == {"objective.beta": (0.1, 0.5), "model.lora": (None, {"r": 8})}
    assert by_key(found.versions) == {"tiltlm": ("0.1", "0.2")}
    assert by_key(found.data) == {"losses.empty": ("(missing)", 3)}
    assert found.same == {"model": True, "reference": True, "data": False, "held-out data": True}
    text = found.summary()
    assert "objective.beta" in text
    assert "output" not in text
    assert "num_epochs" not in text


def test_results_say_whether_their_intervals_overlap(two):
    found = {one.name: one for one in compare_runs(*two).results}
    assert found["accuracy"].overlap is True
    assert found["margin"].overlap is False
    assert found["accuracy"].paired.estimate == pytest.approx(0.25)
    assert found["margin"].paired is None
    table = compare_runs(*two).to_pandas()
    assert table.loc["accuracy", "difference"] == pytest.approx(0.25)


def test_numbers_in_different_units_are_not_compared_in_words(two):
    said = {part: [s for s in compare_runs(*two).sentences() if s.startswith(part)] for part in ("Held-out m", "KL")}
    assert [len(one) for one in said.values()] == [1, 1]
    assert "overlap" not in said["Held-out m"][0]
    assert "overlap" in said["KL"][0]


def test_margins_of_different_rewards_are_not_to_be_compared(two):
    assert any("Margins" in note for note in compare_runs(*two).notes)
    assert not any("Margins" in note for note in compare_runs(two[0], two[0]).notes)


def test_a_run_differs_in_nothing_from_itself(two):
    found = compare_runs(two[0], two[0])
    assert (found.settings, found.versions, found.data) == ((), (), ())
    assert set(found.same.values()) == {True}
    assert (found.equal_to, found.parts_at) == (4, None)


def test_the_first_step_with_another_loss_is_named(two):
    path = two[1] / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace("0.5", "0.4")
    path.write_text("\n".join(lines) + "\n")
    found = compare_runs(*two)
    assert (found.equal_to, found.parts_at) == (2, 3)


def test_a_run_in_progress_is_compared_as_far_as_it_goes(two):
    for name in ("report.json", "ended.json", "data.json"):
        (two[1] / name).unlink()
    found = compare_runs(*two)
    assert found.results[0].b is None
    assert found.same["held-out data"] is None
    assert any("B is not finished" in note for note in found.notes)
    assert {curve.name for curve in found.curves} == {"loss, training batches"}


def test_a_damaged_file_is_named_and_the_rest_compared(two):
    (two[0] / "metrics.jsonl").write_text('{"step": 1\n{"step": 2}\n{"step": 3}\n')
    (two[1] / "config.yaml").write_text("a: [")
    found = compare_runs(*two)
    assert any("metrics.jsonl" in note for note in found.notes)
    assert any("config.yaml" in note for note in found.notes)
    assert by_key(found.versions)


def test_a_folder_that_is_no_run_is_refused(two, tmp_path):
    for pair, key in (((tmp_path, two[0]), "A"), ((two[0], tmp_path / "none"), "B")):
        with raises(ConfigError, "no_run", key=key):
            compare_runs(*pair)
    (two[1] / "run.json").write_text('{"format": 9, "created": ""}')
    with raises(ConfigError, "no_run", key="B"):
        compare_runs(*two)


def test_the_page_has_both_curves_and_escapes_names(two, tmp_path):
    strange = tmp_path / "<b>run"
    two[1].rename(strange)
    compare_runs(two[0], strange, html=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<b>run" not in page
    assert page.count('<svg class="figure"') == 1
    assert "objective.beta" in page


def test_the_plain_form_is_valid_json(two):
    report = json.loads((two[0] / "report.json").read_text())
    report["samples"]["after"]["kl"] |= {"low": "NaN", "high": "NaN"}  # of a single prompt
    (two[0] / "report.json").write_text(json.dumps(report))
    with (two[0] / "config.yaml").open("a") as file:
        file.write("day: 2026-01-01\n")
    plain = json.loads(json.dumps(compare_runs(*two).to_dict(), allow_nan=False))
    assert plain["settings"][0]["key"]
    assert {one["name"]: one["overlap"] for one in plain["results"]}["margin"] is False
