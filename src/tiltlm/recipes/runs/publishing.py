"""Publish a finished run on the Hugging Face Hub: the model with its card, and the report, in one commit.

A new repository is private. Nothing of a run is changed, so an upload that fails can be repeated.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from tiltlm.core.errors import ConfigError, RunError
from tiltlm.distributed.position import at_work
from tiltlm.recipes.runs.found import look_at
from tiltlm.runs.directory import RunDirectory

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger(__name__)

REPORTS = ("report.html", "report.json", "loop.html", "loop.json")
"""Files of a run that hold its results. They show prompts and responses of the data."""
WEIGHTS = (".safetensors", ".safetensors.index.json")
"""Ends of the names of weights. Those of an earlier upload that a new one does not replace are deleted."""


@dataclass(frozen=True)
class Published:
    """A run on the hub, or why it is not there."""

    run: Path
    name: str
    """The repository, `USER/NAME`."""
    files: tuple[str, ...]
    num_bytes: int
    is_private: bool = True
    url: str = ""
    """The commit; "" if the upload failed."""
    error: str = ""

    @property
    def exit_code(self) -> int:
        """1 if the upload failed."""
        return int(bool(self.error))

    def summary(self) -> str:
        """Return what the command line prints."""
        if self.error:
            return f"hub     not uploaded: {self.error}"
        sight = "private" if self.is_private else "public"
        return f"hub     {self.url}  ({sight}; {len(self.files)} files, {self.num_bytes / 1e6:.1f} MB)"


def check_publishing(name: str, key: str, *, public: bool = False) -> str:
    """Require that files can be uploaded to a repository, and return its whole name, `USER/NAME`.

    The repository is made if it is new: only that shows that the token may write. Call it before a run starts.

    Args:
        name: `NAME` of the user whose token it is, or `OWNER/NAME`.
        key: The option that names it, for messages.
        public: Make a new repository public.

    Raises:
        ConfigError: the name cannot be one of the hub, the hub is switched off, or there is no token, or it may not
            write there.
        RunError: the hub does not answer.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if constants.HF_HUB_OFFLINE:
        raise ConfigError(
            f"{key}: the hub is switched off by HF_HUB_OFFLINE. {_way_out(key, 'Unset it')}", code="offline", key=key
        )
    if get_token() is None:
        raise ConfigError(
            f"{key}: there is no token for the hub. Run `hf auth login` or set HF_TOKEN, with a token that may write",
            code="no_login",
            key=key,
        )
    api = HfApi()
    try:
        user = str(api.whoami()["name"])
        whole = name if "/" in name else f"{user}/{name}"
        api.create_repo(whole, private=not public, exist_ok=True)
        api.auth_check(whole, write=True)
    except HFValidationError as error:
        raise ConfigError(f"{key} {name}: no name that the hub allows: {error}", code="bad_name", key=key) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            raise ConfigError(
                f"{key} {name}: the token may not write there (HTTP {status}). Use a token with the right to write to "
                "this repository, or another name",
                code="no_right",
                key=key,
            ) from error
        raise RunError(_does_not_answer(key, error), code="hub_failed", key=key) from error
    except Exception as error:  # the library behind it, and so its classes, differ between versions
        raise RunError(_does_not_answer(key, error), code="hub_failed", key=key) from error
    return whole


def _does_not_answer(key: str, error: Exception) -> str:
    return f"{key}: the hub does not answer ({_first_line(error)}). {_way_out(key, 'Try again later')}"


def _way_out(key: str, first: str) -> str:
    """Return what to do. An option may also be left out; the name in a call of `tiltlm push` may not."""
    return f"{first}, or leave out {key}" if key.startswith("--") else first


def publish(run: Path, name: str, *, public: bool = False, with_report: bool = True) -> Published:
    """Upload a finished run.

    Args:
        run: A run directory.
        name: `NAME` of the user whose token it is, or `OWNER/NAME`.
        public: Make a new repository public. One that exists stays as it is.
        with_report: Upload the report too.

    Raises:
        ConfigError: the folder is no finished run, or as `check_publishing`.
        RunError: the upload failed.
    """
    files = dict(files_of(run, with_report))
    found = upload(run, check_publishing(name, "NAME", public=public), files)
    if found.error:
        raise RunError(
            f"{found.error}. Nothing in {run} is changed; try again: tiltlm push {quote(str(run))} {name}",
            code="push_failed",
            key="NAME",
        )
    return found


def files_of(run: Path, with_report: bool = True) -> Iterator[tuple[str, Path]]:
    """Yield the files of a finished run that are uploaded: name in the repository, and path.

    Raises:
        ConfigError: the folder is no run, or the run has not finished.
    """
    if not (run / RunDirectory.MARKER).exists():
        what = "this is no run directory, which has run.json" if run.is_dir() else "there is no such folder"
        raise ConfigError(f"{run}: {what}", code="no_run", key="RUN")
    state = look_at(run).state
    model = run / "model"
    if state != "finished" or not (model / "config.json").exists():
        reason = f"it is {state}" if state != "finished" else "its folder model/ is missing"
        raise ConfigError(
            f"{run}: only a finished run can be uploaded, and {reason}; `tiltlm runs {run}` says more",
            code="not_finished",
            key="RUN",
        )
    yield from ((path.name, path) for path in sorted(model.iterdir()) if path.is_file())
    if with_report:
        yield from ((name, run / name) for name in REPORTS if (run / name).exists())


def upload(run: Path, name: str, files: dict[str, Path]) -> Published:
    """Upload files as one commit. A failure is in the result, so that nothing around the call is lost.

    Args:
        run: The run directory.
        name: The whole name of a repository that exists.
        files: Name in the repository → path.
    """
    from huggingface_hub import HfApi

    num_bytes = sum(path.stat().st_size for path in files.values())
    reports = [file for file in files if file in REPORTS]
    log.info(
        "uploading %d files (%.1f MB) to %s%s",
        len(files),
        num_bytes / 1e6,
        name,
        f"; {' and '.join(reports)} show prompts, responses and file names of your data" if reports else "",
        extra={"event": "uploading", "repository": name, "files": sorted(files)},
    )
    found = Published(run, name, tuple(files), num_bytes)
    try:
        with at_work("upload"):  # the other processes of a run wait for it, however long it takes
            url, is_private = _commit(HfApi(), run, name, files)
    except Exception as error:  # the libraries below have many classes, and a finished run must not end in a traceback
        log.error("the upload to %s failed: %s", name, error, extra={"event": "push_failed", "repository": name})
        return replace(found, error=f"the upload to {name} failed ({_first_line(error)})")
    return replace(found, url=url, is_private=is_private)


def _commit(api: "HfApi", run: Path, name: str, files: dict[str, Path]) -> tuple[str, bool]:
    """Make one commit of the files, without weights that an earlier one left; return its address and the visibility."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    there = api.model_info(name)
    old = [file.rfilename for file in there.siblings or ()]
    stale = [file for file in old if file.endswith(WEIGHTS) and "/" not in file and file not in files]
    operations: list[Any] = [CommitOperationAdd(file, str(path)) for file, path in files.items()]
    operations += [CommitOperationDelete(file) for file in stale]
    done = api.create_commit(name, operations, commit_message=f"Upload {run.name} with tiltlm")
    return str(done.commit_url), bool(there.private)


def _first_line(error: BaseException) -> str:
    """Return the first line of an error, or of its cause where the library hides it."""
    text = str(error).strip() or type(error).__name__
    cause = error.__cause__
    if cause is not None and str(cause).strip() and str(cause) not in text:
        text = f"{text.splitlines()[0]} {str(cause).strip()}"
    return text.splitlines()[0][:300]
