"""Workflows name actions by commit and have the least rights; images run without rights; what they name is there."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
IMAGES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def jobs_of(workflow: Path) -> dict:
    return yaml.safe_load(workflow.read_text())["jobs"]


def test_there_are_some():
    assert len(WORKFLOWS) >= 8
    assert len(IMAGES) == 2


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_named_by_commit_and_keep_no_token(workflow):
    for line in workflow.read_text().splitlines():
        if used := re.search(r"uses: (\S+)(.*)", line):
            is_own = used[1].startswith("./")
            assert is_own or re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", used[1]), line
            assert is_own or re.match(r"  # v\d+\.\d+\.\d+", used[2]), f"{line}: the comment names the version"
    for job in jobs_of(workflow).values():
        for step in job.get("steps", []):
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_reads_and_only_named_jobs_may_do_more(workflow):
    assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}
    writes = {name for name, job in jobs_of(workflow).items() if "write" in job.get("permissions", {}).values()}
    assert writes <= {"publish"}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_step_runs_is_there(workflow):
    for job in jobs_of(workflow).values():
        for step in job.get("steps", []):
            for file in re.findall(r"(?:scripts|requirements|docs|docker)/[\w./-]*\w", step.get("run", "")):
                assert (ROOT / file).exists(), f"{workflow.name}: {file}"


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_an_image_runs_without_rights_and_copies_what_is_there(image):
    text = image.read_text()
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "1000"
    assert ":latest" not in text
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
    assert text.count("--require-hashes") == 2
