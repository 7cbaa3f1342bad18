"""`label_smoothing: estimated:FILE` takes a number from the file of a check, and says so."""

import json

import pytest

from support.errors import has_event, raises
from tiltlm.config.resolve import resolve
from tiltlm.core import ConfigError
from tiltlm.recipes.run_settings import RunSettings

RUN = {"model": "m", "data": "d.jsonl", "output": "o"}


def write(folder, **rate):
    path = folder / "check.json"
    path.write_text(json.dumps({"numbers": {"label_noise": {"value": rate}}}))
    return path


@pytest.mark.parametrize("name", ["cdpo", "robust_dpo"])
def test_the_estimate_is_taken_and_logged(tmp_path, caplog, name):
    caplog.set_level("INFO", logger="tiltlm")
    path = write(tmp_path, estimate=0.12, low=0.08, high=0.17, level=0.95, n=900)
    settings = resolve(RunSettings, None, {"objective": name}, label_smoothing=f"estimated:{path}", **RUN)
    assert settings.objective["label_smoothing"] == 0.12
    assert has_event(caplog, "label_noise_taken", value=0.12, file=str(path))
    settings.build_objective()


def test_what_is_no_estimate_is_refused(tmp_path):
    def refused(text: str, code: str):
        with raises(ConfigError, code, key="objective.label_smoothing"):
            resolve(RunSettings, None, {"objective": "cdpo"}, label_smoothing=text, **RUN)

    refused("estimated", "missing_setting")
    refused(f"estimated:{tmp_path / 'absent.json'}", "not_readable")
    for content in ("[]", "{", '{"numbers": {}}', '{"numbers": {"label_noise": {"value": 0.1}}}'):
        (tmp_path / "other.json").write_text(content)
        refused(f"estimated:{tmp_path / 'other.json'}", "not_readable")
    wide = write(tmp_path, estimate=0.2, low=0.0, high=0.5)
    refused(f"estimated:{wide}", "out_of_range")
    unknown = write(tmp_path, estimate=0.2, low="NaN", high="NaN")
    refused(f"estimated:{unknown}", "out_of_range")
