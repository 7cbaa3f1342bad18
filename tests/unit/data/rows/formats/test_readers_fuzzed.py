"""Whatever values stand in the columns of a format, a row is a record or a defect, and never another exception."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tiltlm.core.errors import TiltError
from tiltlm.data.accounting import Defect
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.dataset import survey
from tiltlm.data.files.text_files import Row
from tiltlm.data.rows.columns import detect, detect_prompts
from tiltlm.data.rows.formats.catalog import FORMATS, WRITTEN
from tiltlm.data.rows.records import to_prompt, to_record
from tiltlm.data.rows.roles import ALL_ROLES
from tiltlm.data.rows.written import Target
from tiltlm.data.whole_rows import join_rows

KEYS = sorted(
    {
        *("role", "content", "from", "value", "tool_calls", "arguments", "function", "answer", "rank", "completion"),
        *("response", "overall_score", "annotations", "Rating", "messages", "tools", "result", "type", "selected"),
        *("choices", "was_cancelled", "values", "status", "question_name", "prompt", "answer1", "answer2", "response1"),
        *("response2", "chosen", "rejected", "preference"),
    }
)
WORDS = st.sampled_from(
    [
        *("", " ", "a", "b", "tie", "left", "right", "1", "-1", "user", "assistant", "gpt", "human", "pairwise"),
        *("choices", "submitted", "response1", "[]", "{}", "[1, 2]", '{"a": 1}', '[{"role": "user", "content": "x"}]'),
        *("\n\nHuman: x\n\nAssistant: y", "\n\nAssistant:", "\ud800", "nan", "inf", "1e999", "\x00", "ſ"),
    ]
)
NUMBERS = st.integers(-3, 3) | st.integers(10**400, 10**401) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": WORDS})
LIKELY = VALUES | MESSAGE | st.lists(MESSAGE, max_size=4) | st.lists(VALUES, min_size=2, max_size=2) | WORDS


def columns_of(form):
    return sorted({*form.columns, *form.takes, *form.roles} or {"prompt", "chosen", "rejected"})


@st.composite
def rows(draw):
    """Draw a row with the columns of a format, or of some roles, with any values."""
    form = draw(st.sampled_from(FORMATS))
    columns = columns_of(form)
    more = draw(st.lists(st.sampled_from(sorted(ALL_ROLES)), max_size=3))
    return {column: draw(LIKELY) for column in {*columns, *(more if draw(st.booleans()) else [])}}


def read(row, then):
    """Return what `then` makes of the row, or None if it is refused."""
    placed = list(join_rows([Row("a.jsonl:1", row), Row("a.jsonl:2", row)]))
    try:
        return [then(place) for place in placed]
    except (Defect, TiltError):
        return None


@settings(max_examples=1500)
@given(row=rows(), target=st.sampled_from(sorted(WRITTEN)))
@example(row={"prompt": "x", "response": "y", "helpfulness": 1}, target="trl")
def test_any_row_is_a_record_a_defect_or_an_error_of_ours(row, target):
    source = DataSettings(train="a")

    def whole(place):
        schema = detect(survey([[place]])[0], source, use_reference_columns=True)
        record = to_record(place, schema)
        assert all(len(record.responses) > c.chosen != c.rejected for c in record.comparisons)
        Target.of(WRITTEN[target], schema).write(record, {})

    read(row, whole)
    read(row, lambda place: to_prompt(place, detect_prompts(survey([[place]])[0], source)))


def test_the_fuzzer_reaches_records():
    """Rows that are drawn are not all refused at the door."""
    reached = set()

    @settings(max_examples=600, database=None, derandomize=True)
    @given(row=rows())
    def collect(row):
        def whole(place):
            schema = detect(survey([[place]])[0], DataSettings(train="a"), use_reference_columns=True)
            reached.add(schema.format)
            to_record(place, schema)
            reached.add("record")

        read(row, whole)

    collect()
    assert "record" in reached
    assert len(reached) > len(WRITTEN) / 2
