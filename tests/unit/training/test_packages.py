"""Trackers need their packages, and W&B a login or the wish for none."""

from importlib.machinery import ModuleSpec

import pytest

from support.errors import raises
from tiltlm.core.errors import ConfigError
from tiltlm.training.packages import check_trackers


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder without a login of W&B, which seems to be installed."""
    monkeypatch.setattr("tiltlm.storage.versions.find_spec", lambda name: ModuleSpec(name, None, origin=name))
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_DISABLED", "WANDB_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("mode", [None, "online"])
def test_wandb_without_a_login_is_refused(home, monkeypatch, mode):
    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    with raises(ConfigError, "no_login", key="training.trackers"):
        check_trackers(["tensorboard", "wandb"])
    check_trackers(["tensorboard", "trackio"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_API_KEY", "k" * 40),
        ("WANDB_IDENTITY_TOKEN_FILE", "token"),
        ("WANDB_MODE", "offline"),
        ("WANDB_MODE", "disabled"),
    ],
)
def test_a_login_or_the_wish_for_none_in_the_environment(home, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    check_trackers(["wandb"])


@pytest.mark.parametrize("file", [".netrc", "_netrc", ".config/wandb/settings", "wandb/settings"])
def test_a_file_that_may_hold_a_login(home, file):
    (home / file).parent.mkdir(parents=True, exist_ok=True)
    (home / file).touch()
    check_trackers(["wandb"])


def test_files_at_other_places(home, monkeypatch):
    for name, path in (("NETRC", home / "logins"), ("WANDB_CONFIG_DIR", home / "config")):
        with monkeypatch.context() as patch:
            patch.setenv(name, str(path))
            with raises(ConfigError, "no_login"):
                check_trackers(["wandb"])
            (path / "settings" if name == "WANDB_CONFIG_DIR" else path).parent.mkdir(exist_ok=True)
            (path / "settings" if name == "WANDB_CONFIG_DIR" else path).touch()
            check_trackers(["wandb"])
