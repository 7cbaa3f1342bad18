"""A judge in every form that a command takes."""

import pytest

from support.errors import raises
from tiltlm.config.judges import judge_section, read_judge
from tiltlm.core import ConfigError
from tiltlm.judging import JudgeSettings

WANTED = JudgeSettings("regex", pattern="a{2}, b", soft=False)


@pytest.mark.parametrize("top", [True, False])
def test_all_forms_say_the_same(tmp_path, top):
    values = {"kind": "regex", "pattern": "a{2}, b", "soft": False}
    file = tmp_path / "judge.yaml"
    text = "kind: regex\npattern: 'a{2}, b'\nsoft: false\n"
    file.write_text(text if top else "judge:\n" + "".join(f"  {line}\n" for line in text.splitlines()))
    forms = [values, file, str(file), WANTED, "{kind: regex, pattern: 'a{2}, b', soft: false}"]
    assert [read_judge(form) for form in forms] == [WANTED] * len(forms)
    assert judge_section("length") == {"kind": "length"}


@pytest.mark.parametrize("text", ["{kind: regex", "{regex}x"])
def test_a_text_in_braces_that_is_no_mapping(text):
    with raises(ConfigError, "wrong_type", key="judge"):
        read_judge(text)
