"""The quickstart recipe: a complete alignment run in a world whose reward is known, so that the gain can be measured.

It samples from the reference, labels all comparisons by Bradley–Terry on the gold reward, trains DPO and samples the
policy on held-out prompts. It shows reward and KL beside the exact frontier: the best possible reward at each KL.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tiltlm.core import Example
from tiltlm.core.notes import Note
from tiltlm.data import Accounting, DataSettings, Encoder, PreferenceData
from tiltlm.data.cache.fingerprints import fingerprint
from tiltlm.distributed import Ranks
from tiltlm.evaluation import SampleSet, compare_gold
from tiltlm.models import ModelSettings, Policy, load_policy
from tiltlm.recipes.prepare import encoder_of, name_reference, note_all
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.run_settings import EvaluationSettings, RunSettings
from tiltlm.recipes.train import MeasuredGold, carry_out
from tiltlm.recipes.trained_run import TrainedRun
from tiltlm.runs import RunDirectory, RunLog, run_log
from tiltlm.sampling import Sampled, SamplingSettings, sample
from tiltlm.training.training_settings import TrainingSettings
from tiltlm.worlds import LEVELS, PromptSet, TextWorld

RESPONSES = 8
"""Responses sampled for each training prompt. All 28 comparisons among them are labelled and make one example."""
REFERENCE_SAMPLES = 384
"""Samples of the reference, and of the policy, for each held-out prompt. Reweighted to the policy's KL, the reference's
samples have an effective size of about a fifth; the frontier is drawn where it is at least 50."""
MAX_NEW_TOKENS = 32
BETA = 0.3
"""With few comparisons DPO converges to a policy between the reference and π_ref·exp(r/β). At 0.3 its KL is about
1 nat."""
TRAINING = TrainingSettings(learning_rate=5e-4, num_epochs=6, batch_size=16)
DATA, HELD_OUT = "comparisons.jsonl", "held-out.jsonl"


def quickstart(
    output: Path, *, overwrite: bool = False, seed: int = 0, progress: ProgressCallback = silent
) -> TrainedRun:
    """Run a complete small alignment, offline.

    Args:
        output: The run directory.
        overwrite: Delete the run in `output`.
        seed: Seed of the samples, the labels and the order of training.
        progress: Called during sampling and training.

    Raises:
        ConfigError: the folder is not empty.
    """
    process = Ranks.single("quickstart")
    with one_thread(), run_log() as messages:
        return run_in_world(output, overwrite, seed, progress, process, messages)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread in the block: for matrices this small, more threads are no faster."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_in_world(
    output: Path, overwrite: bool, seed: int, progress: ProgressCallback, process: Ranks, messages: RunLog
) -> TrainedRun:
    """Sample, label, train, measure."""
    world = TextWorld()
    settings = run_settings(world, output, seed)
    progress("load the model", 0, 0)
    policy = load_policy(settings.model, process.device)
    note_all(policy.notes)
    encoder = encoder_of(policy)
    examples = {
        split: compare_samples_of(world, policy, encoder, split, seed, progress) for split in ("train", "heldout")
    }
    data = preference_data(examples["train"], examples["heldout"], encoder)
    ready = name_reference(settings, settings.build_objective(), policy, data)
    with RunDirectory.open(output, overwrite=overwrite) as run:
        messages.write_to(run.path)
        for name, split in ((DATA, "train"), (HELD_OUT, "heldout")):
            run.write_text(name, "".join(lines(examples[split], encoder, world)))
        return carry_out(
            run,
            ready,
            settings,
            process,
            progress=progress,
            title="Quickstart: DPO at the lost-property desk",
            command=f"tiltlm quickstart --output NEW_FOLDER --seed {seed}",
            gold=lambda before, after: gold_of(world, before, after, encoder),
        )


def run_settings(world: TextWorld, output: Path, seed: int) -> RunSettings:
    """Return the settings of the quickstart, in the form of any other run's."""
    return RunSettings(
        model=ModelSettings(str(world.model_path())),
        data=DataSettings(str(output / DATA), eval=str(output / HELD_OUT)),
        objective={"name": "dpo", "beta": BETA},
        output=output,
        training=replace(TRAINING, seed=seed),
        evaluation=EvaluationSettings(world.num_heldout, REFERENCE_SAMPLES, MAX_NEW_TOKENS, seed),
    )


def compare_samples_of(
    world: TextWorld, policy: Policy, encoder: Encoder, split: PromptSet, seed: int, progress: ProgressCallback
) -> list[Example]:
    """Return the examples of a split: responses sampled from the policy, with every comparison among them labelled."""
    texts = world.prompts(split)
    prompts = [encoder.prompt_ids(text) for text in texts]
    samples = sample(
        policy.module,
        prompts,
        RESPONSES,
        SamplingSettings(MAX_NEW_TOKENS),
        seed=seed + 1,  # the measurement samples with `seed`, and must not get the same samples
        end_token_ids=policy.end_token_ids,
        progress=lambda done, total: progress(f"tokens sampled, {split}", done, total),
    )
    rng = np.random.default_rng([seed, split == "heldout"])
    return [
        Example(
            id=f"{split}[{i}]",
            prompt_ids=ids,
            responses=tuple(s.response for s in own),
            comparisons=world.label(text, [reply(encoder, s) for s in own], rng),
        )
        for i, (text, ids, own) in enumerate(zip(texts, prompts, samples, strict=True))
    ]


def reply(encoder: Encoder, sampled: Sampled) -> str:
    """Return the text of a sample. A sample that has not ended has no end in its text; its reward is the lowest."""
    return encoder.plain_text(sampled.token_ids)


def preference_data(train: Sequence[Example], held_out: Sequence[Example], encoder: Encoder) -> PreferenceData:
    """Return these examples as the data of a run, counted like rows of a file."""
    accounting = Accounting(total=len(train) + len(held_out))
    for examples, is_held_out in ((train, False), (held_out, True)):
        for example in examples:
            accounting.keep(example, is_held_out)
    return PreferenceData(
        train=tuple(train),
        held_out=tuple(held_out),
        accounting=accounting,
        fingerprint=fingerprint(train, held_out),
        notes=(Note(f"{RESPONSES} responses a prompt are the model's own, labelled by their gold rewards", "sampled"),),
        encoder=encoder,
        end_token_id=encoder.end_token_id,
        max_length=encoder.window or 0,
    )


def lines(examples: Sequence[Example], encoder: Encoder, world: TextWorld) -> list[str]:
    """Return the examples as JSON lines that `tiltlm train` reads, with the gold rewards as metadata."""
    rows = []
    for example in examples:
        prompt = encoder.plain_text(example.prompt_ids)
        replies = [encoder.plain_text(r.token_ids) for r in example.responses]
        rows.append(
            {
                "id": example.id,
                "prompt": prompt,
                "completions": replies,
                "comparisons": [[c.chosen, c.rejected] for c in example.comparisons],
                "metadata": {"gold": [world.reward(prompt, text) for text in replies]},
            }
        )
    return [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]


def gold_of(world: TextWorld, before: SampleSet, after: SampleSet, encoder: Encoder) -> MeasuredGold:
    """Return the gold reward of the samples of policy and reference, with the frontier, and the rewards of both."""

    def rewards(draws: SampleSet) -> list[list[float]]:
        prompts = [encoder.plain_text(ids) for ids in draws.prompts]
        return [
            [world.reward(prompt, reply(encoder, s)) for s in own]
            for prompt, own in zip(prompts, draws.samples, strict=True)
        ]

    assert after.ref_logps is not None, "the measurement scores the policy's samples under the reference"
    of_before, of_after = rewards(before), rewards(after)
    gaps = after.logps - after.ref_logps
    return compare_gold(of_after, gaps, of_before, LEVELS, reward_name="courtesies"), (of_before, of_after)
