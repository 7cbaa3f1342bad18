"""The commits of the hub that a run has read: kept in its folder, and read again when it is resumed."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiltlm.data import PreferenceData
from tiltlm.models import Policy, Scorer
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.storage.files import read_json

log = logging.getLogger(__name__)

COMMITS = "commits.json"
"""File of a run directory."""


def commits_of(policy: Policy | Scorer, data: PreferenceData) -> dict[str, Any]:
    """Return the commits of model and data, with the revisions that were asked for; null for files."""
    model = policy.settings
    return {
        "model": {"path": model.path, "revision": model.revision, "commit": policy.commit},
        "data": dict(data.commits),
    }


def at_recorded_commits(settings: RunSettings) -> RunSettings:
    """Return settings of a run that is resumed, with the commits that it has read so far in place of branches.

    A branch may have moved since then. Settings that ask for another revision stay as they are: whether their model and
    data are the same is found out from the content.
    """
    recorded = read_json(Path(settings.output) / COMMITS)
    if recorded is None:
        return settings
    model, data = settings.model, settings.data
    before = recorded["model"]
    if before["commit"] and (before["path"], before["revision"]) == (model.path, model.revision):
        model = replace(model, revision=before["commit"])
    commits = set(recorded["data"].values())
    if data.revision is None and len(commits) == 1:
        data = replace(data, revision=commits.pop())
    if (model, data) != (settings.model, settings.data):
        log.info("the commits of the hub are those of the run: %s", recorded, extra={"event": "recorded_commits"})
    return replace(settings, model=model, data=data)
