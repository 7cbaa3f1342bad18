"""Names of columns whose meaning is plain, and names whose meaning depends on the data set.

A name whose meaning is plain stands in `NAMES`. One that could mean several things stands in `GUESSES`: it is only
proposed in an error message.
"""

from collections.abc import Mapping

NAMES: Mapping[str, str] = {
    **dict.fromkeys(("question", "instruction", "query", "problem", "user_prompt", "prompt_text"), "prompt"),
    **dict.fromkeys(("chosen_response", "response_chosen", "preferred_response", "accepted", "y_w"), "chosen"),
    **dict.fromkeys(("preferred", "response_w"), "chosen"),
    **dict.fromkeys(("rejected_response", "response_rejected", "dispreferred_response", "y_l"), "rejected"),
    **dict.fromkeys(("dispreferred", "response_l"), "rejected"),
    **dict.fromkeys(("response", "output", "answer"), "completion"),
    **dict.fromkeys(("responses", "outputs", "generations"), "completions"),
    **dict.fromkeys(("conversation", "conversations"), "messages"),
    **dict.fromkeys(("kto_tag", "thumbs_up", "is_desirable", "desirable"), "label"),
    **dict.fromkeys(("system_prompt", "system_message"), "system"),
    **dict.fromkeys(("ratings",), "scores"),
    **dict.fromkeys(("chosen_score", "chosen_rating", "chosen_avg_rating", "chosen_reward"), "score_chosen"),
    **dict.fromkeys(("rejected_score", "rejected_rating", "rejected_avg_rating", "rejected_reward"), "score_rejected"),
    **{f"{part}_input_ids": f"{part}_ids" for part in ("prompt", "chosen", "rejected", "completion")},
}
"""Name of a column → its role, where it can mean nothing else. Names are compared as `plain_name` gives them."""

GUESSES: Mapping[str, str] = {
    **dict.fromkeys(("input", "context", "user"), "prompt"),
    **dict.fromkeys(("better",), "chosen"),
    **dict.fromkeys(("loser", "worse"), "rejected"),
    **dict.fromkeys(("answers",), "completion"),
    **dict.fromkeys(("candidates",), "completions"),
    **dict.fromkeys(("conversational",), "messages"),
    **dict.fromkeys(("labels", "thumbs", "feedback"), "label"),
    **dict.fromkeys(("margin", "margins"), "offset"),
    **dict.fromkeys(("rank", "ranking"), "ranks"),
    **dict.fromkeys(("rating", "score", "rewards"), "scores"),
    **dict.fromkeys(("choice", "verdict", "better_response", "preferred_response_id", "judgment"), "winner"),
}
"""Name of a column → the role that its author probably meant; used in messages only."""

PICTURES = frozenset({"image", "images", "picture", "pictures", "video", "videos", "audio", "audios"})
"""Columns of data for models that read more than text."""
