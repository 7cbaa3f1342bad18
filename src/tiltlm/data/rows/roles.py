"""Roles of columns: what a column can be for, and which of them each shape of data can use. Names follow TRL."""

from tiltlm.core.needs import Shape

COMMON = frozenset({"id", "source", "prompt", "prompt_input", "system", "weight", "tools", "chat_template_kwargs"})
ANSWERS = frozenset({"answer_a", "answer_b", "winner"})
"""A pair as two answers and the one that won."""
PAIR_ONLY = frozenset(
    {
        *("score_chosen", "score_rejected", "offset", "preference", "votes"),
        *("ref_chosen_logps", "ref_rejected_logps"),
    }
)
TOKENS = {
    "prompt_ids": "prompt",
    "chosen_ids": "chosen",
    "rejected_ids": "rejected",
    "completion_ids": "completion",
    "completions_ids": "completions",
}
"""Column of token ids → the role it replaces."""
ENDED = {"chosen": "chosen_ended", "rejected": "rejected_ended", "completion": "ended", "completions": "ended"}
"""Role of a response → column that says if the response, given as token ids, ended by itself."""
TEXTUAL = frozenset(
    {*TOKENS.values(), *ANSWERS, "prompt_input", "messages", "text", "system", "tools", "chat_template_kwargs"}
)
"""Columns that are useless beside token ids."""

ROLES_OF_SHAPE: dict[Shape, frozenset[str]] = {
    "pairs": COMMON | PAIR_ONLY | {"chosen", "rejected"},
    "unpaired": COMMON | {"completion", "messages", "label", "ref_logps"},
    "lists": COMMON | {"completions", "ranks", "scores", "comparisons", "ref_logps"},
    "demonstrations": COMMON | {"completion", "messages", "text"},
}
"""Columns that each shape of data can use, if it is text."""

PROMPT = frozenset({"id", "prompt", "system", "tools", "chat_template_kwargs"})
"""Columns that say what a model is asked."""
PROMPTS = frozenset({"prompt", "chosen", "completion", "messages"})
"""Columns that have a prompt, or hold it."""
ALL_ROLES = frozenset({*TOKENS, *ENDED.values(), *ANSWERS}).union(*ROLES_OF_SHAPE.values())
REFERENCE = frozenset({"ref_chosen_logps", "ref_rejected_logps", "ref_logps"})

METADATA = frozenset(
    {
        *("annotator", "annotator_id", "category", "conversation_id", "created_at", "dataset", "date", "hash", "idx"),
        *("index", "index_level_0", "lang", "language", "license", "meta", "metadata", "model", "models", "model_name"),
        *("model_a", "model_b", "chosen_model", "rejected_model", "model_chosen", "model_rejected", "generator"),
        *("prompt_id", "question_id", "row_id", "split", "source_dataset", "subset", "tags", "task", "timestamp"),
        *("topic", "url", "user_id", "uuid"),
        *("", "unnamed_0"),  # the index of a pandas frame in CSV
    }
)
"""Common names of identifiers and remarks, as `plain_name` gives them: they are noted as unused, not refused."""
