"""`import tiltlm` as a library: what is public, in any order; the calls that README shows; the result of a run."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import tiltlm
from support.errors import raises
from tiltlm.cli.main import app
from tiltlm.core import ConfigError, DataError
from tiltlm.report import read_run, verdict_of

ROOT = Path(__file__).parents[2]
PACKAGES = {path.parent.name for path in Path(tiltlm.__file__).parent.glob("*/__init__.py")}
INTERNAL = {"cli", "config", "costs", "estimates", "labeling", "recipes", "storage"}
"""Packages that are no attributes of `tiltlm` until they are imported."""


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_imports_nothing_heavy():
    code = "import sys, tiltlm; tiltlm.train; print({'torch', 'numpy', 'pydantic', 'tiltlm.core'} & set(sys.modules))"
    assert run_python(code).strip() == "set()"


def test_no_function_has_the_name_of_a_package():
    assert not PACKAGES & set(tiltlm.__all__)


def test_every_public_package_is_an_attribute():
    assert set(dir(tiltlm)) == set(tiltlm.__all__) | (PACKAGES - INTERNAL)


def test_every_name_is_what_it_says_in_any_order():
    """A first access imports modules; this must not replace a function by a module, or a module by a function."""
    code = (
        "import sys, types, tiltlm\n"
        "for name in sys.argv[1:]: getattr(tiltlm, name)\n"
        "packages = {n for n in dir(tiltlm) if isinstance(getattr(tiltlm, n), types.ModuleType)}\n"
        "assert packages == set(dir(tiltlm)) - set(tiltlm.__all__), packages\n"
        "assert callable(tiltlm.train) and callable(tiltlm.describe_objective), 'train'\n"
        "print(tiltlm.objectives.dpo, tiltlm.list_objectives()[0], tiltlm.objectives.ipo)"
    )
    for names in (dir(tiltlm), dir(tiltlm)[::-1]):
        done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def calls(model, data, trained, tmp_path_factory):
    """Return the calls of README on the bundled model; `tiltlm.quickstart` is not run, it has its own test."""
    folder = tmp_path_factory.mktemp("calls")
    short = {"model": model, "data": data, "max_steps": 1, "evaluation.num_prompts": 0}
    count = iter(range(100))

    def new() -> Path:
        return folder / str(next(count))

    return {
        "train": lambda: tiltlm.train(objective="dpo", output=new(), **short),
        "score": lambda: tiltlm.score(model=model, data=data, objective="simpo"),
        "sweep": lambda: tiltlm.sweep(None, {"beta": [0.1, 0.5]}, objective="dpo", output=new(), **short),
        "export": lambda: tiltlm.export(tiltlm.train(objective="dpo", output=new(), **short).path, new()),
        "check": lambda: tiltlm.check(data=data),
        "convert": lambda: tiltlm.convert(data, folder / f"{next(count)}.jsonl", to="openai", lossy=True),
        "split": lambda: tiltlm.split(data=data, output=new(), eval=0.3),
        "stats": lambda: tiltlm.stats(data=data),
        "agreement": lambda: tiltlm.agreement(
            [{"id": k % 5, "annotator": k // 5, "vote": "ab"[k % 2]} for k in range(10)]
        ),
        "estimate": lambda: tiltlm.estimate(model=model, data=data),
        "preview": lambda: tiltlm.preview(model=model, data=data, rows=2),
        "list_objectives": tiltlm.list_objectives,
        "describe_objective": lambda: tiltlm.describe_objective("trl:hinge"),
        "sample": lambda: tiltlm.sample(tiltlm.load_policy(model), ["Where is it?"], max_new_tokens=2),
        "judge": lambda: tiltlm.judge(
            data=data, judge="length", role="held_out", output=folder / f"{next(count)}.jsonl"
        ),
        "judge_audit": lambda: tiltlm.judge_audit(data=data, judge="length", output=folder / f"{next(count)}.json"),
        "compare": lambda: tiltlm.compare(
            [model, model], prompts=data, judge="length", limit=4, max_new_tokens=2, output=new()
        ),
        "best_of_n": lambda: tiltlm.best_of_n(
            model, prompts=data, judge="length", n=2, limit=4, max_new_tokens=2, output=new()
        ),
        "frontier": lambda: tiltlm.frontier(
            None,
            {"beta": [0.1, 0.5]},
            objective="dpo",
            judge="length",
            pool=2,
            n=1,
            limit=4,
            max_new_tokens=2,
            output=new(),
            **short,
        ),
        "compare_methods": lambda: tiltlm.compare_methods(
            methods="dpo,ipo", trials=1, seeds=1, output=new(), **short, **{"data.eval_fraction": 0.3}
        ),
        "loop": lambda: tiltlm.loop(
            preset="raft",
            model=model,
            data=data,
            judge="length",
            unaudited=True,
            max_new_tokens=2,
            output=new(),
            **{"loop.rounds": 1, "loop.n": 2, "loop.prompts_per_round": 2, "data.limit": 4},
        ),
        "runs_list": lambda: tiltlm.runs_list(trained.path),
        "runs_diff": lambda: tiltlm.runs_diff(trained.path, trained.path),
        "push": lambda: tiltlm.push,  # needs a hub: tests/e2e/test_push.py
        "label_serve": lambda: tiltlm.label_serve,  # serves until it is stopped: tests/e2e/test_label_serve.py
        "quickstart": lambda: tiltlm.quickstart,
    }


@pytest.mark.slow
def test_the_calls_of_readme_work_in_any_order(calls):
    shown = set(re.findall(r"tiltlm\.(\w+)\(", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert shown == set(calls)
    assert shown <= set(tiltlm.__all__)
    for name in (*calls, *reversed(calls)):
        assert calls[name](), name


def test_a_run_shows_what_it_came_to(trained):
    text = repr(trained)
    assert trained.verdict in text
    assert str(trained.path) in text
    assert f"{trained.training.num_steps} steps" in text
    table = trained.metrics
    assert len(table) == len((trained.path / "metrics.jsonl").read_text().splitlines())
    assert {"step", "loss", "eval_loss", "rewards/margins"} <= set(table.columns)
    assert table["eval_loss"].dropna().iloc[0] == pytest.approx(0.693, abs=1e-3)


def test_a_notebook_shows_the_report_in_a_frame(trained):
    shown = trained._repr_html_()
    assert shown.startswith("<iframe ")
    page = html.unescape(shown.partition('srcdoc="')[2].partition('"')[0])
    assert verdict_of(trained.report).word in page
    assert "<svg" in page
    assert page.endswith("</html>")


def test_rows_in_memory_and_an_objective_object_train(train, some_pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path / "cache"))
    rows = [*some_pairs, {"prompt": "p", "chosen": "", "rejected": "b"}]
    run = train(tmp_path / "run", data=rows, objective=tiltlm.objectives.dpo(0.3), max_steps=1)
    assert run.report.data["losses"]["empty_response"]["examples"][0].startswith(f"data.jsonl:{len(rows)}")
    again = tiltlm.train(run.path / "config.yaml", output=tmp_path / "again")
    losses = [[line["loss"] for line in of.training.history if "loss" in line] for of in (run, again)]
    assert losses[0] == losses[1] != []


def test_a_loaded_model_trains_as_its_folder_and_stays_as_it_is(train, model, some_pairs, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path / "cache"))
    loaded = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    before = {name: tensor.clone() for name, tensor in loaded[0].state_dict().items()}
    settings = {"data": some_pairs, "objective": "dpo", "max_steps": 2, "reference": loaded}
    capfd.readouterr()
    runs = [train(tmp_path / name, model=of, **settings) for name, of in (("object", loaded), ("folder", model))]
    assert "weights" not in capfd.readouterr().err, "no bars of other libraries"
    for file in ("model.safetensors", "config.json", "generation_config.json", "tokenizer.json"):
        assert written(runs[0], file) == written(runs[1], file), file
    assert [line["loss"] for line in runs[0].training.history if "loss" in line] == [
        line["loss"] for line in runs[1].training.history if "loss" in line
    ]
    after = loaded[0].state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not torch.equal(
        load_file(runs[0].path / "model/model.safetensors")["model.norm.weight"], after["model.norm.weight"]
    )
    again = tiltlm.train(runs[0].path / "config.yaml", output=tmp_path / "again", progress=False)
    assert written(again, "model.safetensors") == written(runs[0], "model.safetensors")
    assert capfd.readouterr().err == ""


def written(run, file: str) -> bytes:
    return (run.path / "model" / file).read_bytes()


def test_the_tables_of_a_run_are_the_numbers_of_its_report(trained):
    examples = trained.examples
    held_out = trained.report.held_out
    assert examples["id"].nunique() == held_out.num_examples
    assert examples["prompt"].nunique() == held_out.num_prompts
    by_role = examples.pivot_table(index="id", columns="role", values=["reward_after", "reward_before"])
    margins = by_role["reward_after"]["chosen"] - by_role["reward_after"]["rejected"]
    assert (by_role["reward_before"] == 0).all(axis=None), "the reference is the untrained policy"
    assert margins.mean() == pytest.approx(held_out.contrast.margin.after.estimate, rel=1e-6)
    log_ratio = examples["logps_after"] - examples["logps_before"]
    assert list(0.5 * log_ratio) == pytest.approx(list(examples["reward_after"]), abs=1e-5)
    numbers = trained.to_pandas()
    assert numbers.loc["margin", "estimate"] == held_out.contrast.margin.after.estimate
    assert (numbers["low"] <= numbers["estimate"]).all()
    assert (numbers["estimate"] <= numbers["high"]).all()
    texts = trained.report.samples.texts
    assert list(trained.samples["before"]) == [text for shown in texts for text in shown.before]
    assert list(trained.samples["after"]) == [text for shown in texts for text in shown.after]


def test_a_sweep_is_a_table_of_points(model, data, tmp_path, blank_figures):
    grid = {"beta": [0.1, 0.5], "training.seed": [0, 1]}
    settings = {"model": model, "data": data, "objective": "dpo", "max_steps": 1, "evaluation.num_prompts": 0}
    sweep = tiltlm.sweep(None, grid, output=tmp_path / "sweep", **settings)
    table = sweep.to_pandas()
    assert list(table["beta"]) == [0.1, 0.5]
    assert list(table["num_seeds"]) == [2, 2]
    for row in table.itertuples():
        found = [run.numbers["margin"].estimate for run in sweep.runs if run.knobs["beta"] == row.beta]
        assert row.margin == pytest.approx(sum(found) / 2)
        half = 12.706204736 * abs(found[0] - found[1]) / 2  # Student's t with one degree of freedom
        assert (row.margin_low, row.margin_high) == pytest.approx((row.margin - half, row.margin + half))
    assert "4 runs at 2 points" in repr(sweep)
    assert str(sweep.path) in repr(sweep)
    page = html.unescape(sweep._repr_html_())
    assert "<svg" in page
    assert "report.html" not in page, "a link would lead nowhere"


def test_scores_are_a_mapping_and_tables(model, some_pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path / "cache"))
    scores = tiltlm.score(model=model, data=some_pairs, objective="simpo")
    assert json.loads(json.dumps(scores)) == scores
    examples = scores.examples
    assert list(examples["id"]) == [f"data.jsonl:{i // 2 + 1}" for i in range(2 * len(some_pairs))]
    assert examples["loss"].mean() == pytest.approx(scores["loss"])
    assert scores.to_pandas()["loss"].item() == scores["loss"]
    assert f"{scores['loss']:.4g}" in repr(scores)
    assert f"<td>{scores['loss']:.4g}</td>" in scores._repr_html_()


def test_a_preview_shows_tokens_in_a_notebook(model, tmp_path, monkeypatch):
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path / "cache"))
    rows = [{"prompt": "Guest Ada: <b>Where</b>?\nDesk:", "chosen": " It is here.", "rejected": " Hello."}] * 2
    previews = tiltlm.preview(model=model, data=rows, rows=2)
    assert len(previews) == 2
    assert len(repr(previews[0])) < 100
    shown = previews._repr_html_()
    texts = re.findall(r"<span[^>]*>(.*?)</span>", shown, re.DOTALL)
    tokens = [piece.text for of in previews for part in (of.prompt, *of.responses) for piece in part]
    assert [html.unescape(text) for text in texts] == tokens
    assert "<b>Where" not in shown


OWN = """
from tiltlm.objectives import Pairwise
from tiltlm.links import Exponential
from tiltlm.rewards import LogRatio

def exponential_dpo(beta: float = 0.1) -> Pairwise:
    return Pairwise(LogRatio(beta), Exponential())
"""


def test_a_method_of_a_module_works_from_the_command_line_and_in_a_sweep(
    model, data, tmp_path, monkeypatch, blank_figures
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("own_losses.py").write_text(OWN)
    name, cheap = "own_losses:exponential_dpo", ["max_steps=1", "evaluation.num_prompts=0"]
    common = ["--model", model, "--data", str(data)]
    trained = ["train", *common, "--objective", name, "--output", "run", "beta=0.3", *cheap]
    swept = ["sweep", *common, "--output", "sweep", f"objective={name},dpo", *cheap]
    try:
        for arguments in (trained, swept):
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, done.output
    finally:
        tiltlm.objectives.CATALOG.pop("exponential_dpo", None)
    report = read_run("run")
    assert (report.config["objective"]["name"], report.config["objective"]["beta"]) == (name, 0.3)
    runs = json.loads(Path("sweep/comparison.json").read_text())["runs"]
    assert [run["knobs"]["objective"] for run in runs] == [name, "dpo"]
    assert all(run["verdict"] for run in runs)


def test_a_run_draws_its_curves(trained):
    figure = trained.plot()
    assert isinstance(figure, mpl.figure.Figure)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "reward margin", "ranking accuracy"]
    batches, held_out = figure.axes[0].get_lines()
    assert len(batches.get_xdata()) == trained.training.num_steps
    assert list(held_out.get_xdata()) == list(trained.metrics.dropna(subset="eval_loss")["step"])
    assert not mpl.pyplot.get_fignums()


def test_parts_for_a_notebook(model, data):
    policy = tiltlm.load_policy(model, dtype="float64")
    found = tiltlm.load_data(data, policy, "kto", eval_fraction=0.25, limit=20)
    assert all(example.partners for example in found.train), "KTO reads responses to other prompts"
    assert isinstance(found.train[0], tiltlm.Example)
    assert found.train[0].labels
    assert len(found.held_out) > 0
    prompts = ["Guest Ada: Where is my red hat?\nDesk:", "Guest Ben: Who took my blue cup?\nDesk:"]
    texts = tiltlm.sample(policy, prompts, n=3, seed=1, max_new_tokens=8).texts
    assert [len(own) for own in texts] == [3, 3]
    assert all(isinstance(text, str) and text for own in texts for text in own)
    assert texts == tiltlm.sample(policy, prompts, n=3, seed=1, max_new_tokens=8).texts
    greedy = [tiltlm.sample(policy, prompts, max_new_tokens=8, temperature=0, seed=s).texts for s in (0, 1)]
    assert greedy[0] == greedy[1]


def test_objectives_by_name():
    assert "dpo" in tiltlm.list_objectives()
    assert tiltlm.build_objective("dpo", beta=0.3) == tiltlm.objectives.dpo(0.3)
    parts = {"data": "pairs", "reward": {"name": "log_ratio", "beta": 0.3}, "link": "logistic"}
    assert tiltlm.build_objective(parts) == tiltlm.objectives.dpo(0.3)
    assert tiltlm.describe_objective("dpo").startswith("dpo")
    assert all(name in tiltlm.describe_objective() for name in tiltlm.list_objectives())


def test_errors_of_the_parts(model, data, tmp_path):
    with raises(ConfigError, "unknown_setting", key="model.dtyp"):
        tiltlm.load_policy(model, dtyp="float64")
    with raises(ConfigError, "unknown_name", mentions=["'dpo'"]):
        tiltlm.build_objective("dpoo")
    policy = tiltlm.load_policy(model)
    with raises(DataError, "no_such_path", mentions=["nothing.jsonl"]):
        tiltlm.load_data(tmp_path / "nothing.jsonl", policy)


def test_other_libraries_are_quiet_while_a_recipe_runs(model, data):
    """Their bars would overwrite ours. Before the recipe there is nothing to silence."""
    log = transformers.utils.logging
    found, seen = log.get_verbosity(), []
    log.set_verbosity_warning()  # whatever another test of this process has left
    try:
        tiltlm.score(
            model=model, data=data, objective="simpo", progress=lambda *_, **__: seen.append(log.get_verbosity())
        )
        assert seen[-1] == log.ERROR
        assert log.get_verbosity() == log.WARNING
    finally:
        log.set_verbosity(found)
