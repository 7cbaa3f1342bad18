"""The attention routes against one dense masked softmax, values and gradients, and what the hook refuses."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from support.errors import raises
from tiltlm.core.errors import ModelError
from tiltlm.core.notes import Note
from tiltlm.logprobs.attention import layout as layouts
from tiltlm.logprobs.attention import routes, segments, varlen
from tiltlm.logprobs.attention.hook import AttentionRecord, forest_attention
from tiltlm.logprobs.attention.layout import Layout, visible
from tiltlm.logprobs.attention.routes import SEGMENTS, Case, disagreement, route_of
from tiltlm.logprobs.attention.segments import Scores

LAYOUT = ((7, 1, 4), ((3, 1, 5), (2,), ()))


class Caller(nn.Module):
    """Replaces a model's attention layer."""

    is_causal = True


class Bidirectional(Caller):
    is_causal = False


def dense(query, key, value, layout, scale, window=None, softcap=None, sinks=None):
    """One softmax over the whole row with the whole mask."""
    mask = torch.block_diag(*[torch.from_numpy(visible(p, b, window)) for p, b in layout.trees]).bool()
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = query @ key.transpose(2, 3) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, -torch.inf)
    if sinks is not None:
        column = sinks.view(1, -1, 1, 1).expand(1, -1, scores.shape[2], 1)
        return (torch.cat([scores, column], -1).softmax(-1)[..., :-1] @ value).transpose(1, 2)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def draw(heads=4, groups=2, width=8, value_width=8, tokens=23):
    generator = torch.Generator().manual_seed(0)
    shapes = [(heads, width), (groups, width), (groups, value_width)]
    return [
        torch.randn(1, tokens, h, d, dtype=torch.float64, generator=generator).transpose(1, 2).requires_grad_()
        for h, d in shapes
    ]


def same(one, other, leaves):
    weights = torch.randn(one.shape, dtype=one.dtype, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
    for a, b in zip(*(torch.autograd.grad((o * weights).sum(), leaves) for o in (one, other)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


CASES = {
    "plain": {},
    "window": {"sliding_window": 3},
    "window longer than the text": {"sliding_window": 64},
    "scaling": {"scaling": 0.7},
    "softcap": {"softcap": 2.0},
    "softcap and window": {"softcap": 2.0, "sliding_window": 4},
    "sinks": {"s_aux": torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("whole_tree", [256, 0])
@pytest.mark.parametrize("shape", [(4, 2, 8, 8), (4, 4, 8, 8), (4, 1, 8, 6)])
def test_routes_equal_dense_attention(monkeypatch, case, whole_tree, shape):
    """Grouped heads and another width of values are included."""
    monkeypatch.setattr(layouts, "WHOLE_TREE", whole_tree)
    leaves = draw(*shape)
    layout = Layout(*LAYOUT)
    extras = CASES[case]
    record = AttentionRecord()
    out, _ = forest_attention(Caller(), *leaves, None, layout=layout, attention_record=record, **extras)
    expected = dense(
        *leaves,
        layout,
        extras.get("scaling", shape[2] ** -0.5),
        extras.get("sliding_window"),
        extras.get("softcap"),
        extras.get("s_aux"),
    )
    assert record.windows == [extras.get("sliding_window")]
    same(out, expected, leaves + [extras[k] for k in ("s_aux",) if k in extras])


def varlen_on_cpu(q, k, v, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """The variable-length kernel's meaning in plain torch: bottom right, `window_size` left of the diagonal."""
    out = []
    for s in range(len(cu_q) - 1):
        rows, columns = slice(cu_q[s], cu_q[s + 1]), slice(cu_k[s], cu_k[s + 1])
        n, m = rows.stop - rows.start, columns.stop - columns.start
        assert n <= max_q
        assert m <= max_k
        distance = (torch.arange(n)[:, None] + m - n) - torch.arange(m)
        mask = (distance >= 0) & ((distance <= window_size[0]) | (window_size[0] < 0))
        part = [t.transpose(0, 1)[None] for t in (q[rows], k[columns], v[columns])]
        assert enable_gqa == (part[0].shape[1] != part[1].shape[1])
        attended = torch.nn.functional.scaled_dot_product_attention(*part, attn_mask=mask, scale=scale, enable_gqa=True)
        out.append(attended[0].transpose(0, 1))
    return torch.cat(out)


@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("groups", [4, 2])
def test_one_variable_length_call_equals_dense_attention(monkeypatch, window, groups):
    """The CUDA route with the kernel replaced by plain torch: this tests the gathering, not the kernel."""
    monkeypatch.setattr(varlen.varlen, "varlen_attn", varlen_on_cpu)
    leaves = draw(4, groups)
    layout = Layout(*LAYOUT)
    out = varlen.attend_varlen(*leaves, layout, window, Scores(0.3))
    same(out, dense(*leaves, layout, 0.3, window), leaves)


CASE = Case(torch.device("cpu"), torch.float32, 4, 2, 16, 16, scale=0.2, softcap=None, has_sinks=False)


def top_left(q, k, v, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """A kernel with another alignment: keys are reversed within each sequence."""
    order = torch.cat([torch.arange(a, b).flip(0) for a, b in itertools.pairwise(cu_k)])
    return varlen_on_cpu(
        q, k[order], v[order], cu_q, cu_k, max_q, max_k, scale=scale, window_size=window_size, enable_gqa=enable_gqa
    )


def absent(*args, scale=None, window_size=None, enable_gqa=None):
    raise NotImplementedError("no such kernel\nat all")


def without_keyword(q, k, v, cu_q, cu_k, max_q, max_k, *, scale, window_size):
    """A version without the keyword `enable_gqa`, which accepts fewer key heads than query heads."""
    grouped = q.shape[1] != k.shape[1]
    return varlen_on_cpu(q, k, v, cu_q, cu_k, max_q, max_k, scale=scale, window_size=window_size, enable_gqa=grouped)


@pytest.mark.parametrize(
    ("kernel", "code"),
    [(varlen_on_cpu, None), (without_keyword, None), (top_left, "not_equal"), (absent, "fails")],
)
def test_the_probe_accepts_the_right_alignment_and_refuses_another(monkeypatch, kernel, code):
    monkeypatch.setattr(varlen.varlen, "varlen_attn", kernel)
    found = disagreement(varlen.attend_varlen, CASE)
    assert code_of(found) == code
    if code == "fails":
        assert "NotImplementedError: no such kernel" in found
        assert "at all" not in found, "its first line only"


def code_of(note):
    return None if note is None else note.code


def test_the_probe_notices_a_wrong_gradient():
    def attend(query, *rest):
        return segments.attend_segments(query.detach() * 0.5 + query * 0.5, *rest)

    assert code_of(disagreement(attend, CASE)) == "not_equal"


@pytest.mark.parametrize("case", [{"softcap": 3.0}, {"has_sinks": True}, {"value_width": 8}, {"scale": 2.0}])
def test_the_probe_notices_what_is_ignored(case):
    """Attention by segment agrees with itself, and not with a version that ignores soft cap, sinks or scale."""
    changed = dataclasses.replace(CASE, **case)

    def ignorant(query, key, value, layout, window, scores):
        return segments.attend_segments(query, key, value, layout, window, Scores(CASE.scale))

    assert disagreement(segments.attend_segments, changed) is None
    assert (disagreement(ignorant, changed) is None) == (case == {"value_width": 8})


CUDA = dataclasses.replace(CASE, device=torch.device("cuda"), dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("changes", "not_varlen", "not_flex"),
    [
        ({}, None, None),
        ({"dtype": torch.float32}, "dtype", None),
        ({"dtype": torch.float64}, "dtype", "dtype"),
        ({"softcap": 5.0}, "softcap_or_sinks", None),
        ({"has_sinks": True}, "softcap_or_sinks", None),
        ({"value_width": 8}, "widths", None),
        ({"width": 512, "value_width": 512}, "widths", None),
        ({"is_short": True, "softcap": 5.0}, "softcap_or_sinks", "short_row"),
    ],
)
def test_each_kernel_names_what_it_cannot_compute(changes, not_varlen, not_flex):
    case = dataclasses.replace(CUDA, **changes)
    assert code_of(routes.not_varlen(case)) == not_varlen
    assert code_of(routes.not_flex(case)) == not_flex


def test_a_kernel_without_a_window_is_not_taken(monkeypatch):
    def older(q, k, v, cu_q, cu_k, max_q, max_k, *, is_causal=False, scale=None):
        raise AssertionError("never called")

    monkeypatch.setattr(varlen.varlen, "varlen_attn", older)
    assert routes.not_varlen(CUDA).code == "no_window"


@pytest.mark.parametrize(
    ("refusals", "wrongs", "taken"),
    [
        ({}, {}, "one variable-length call"),
        ({"not_varlen": "no"}, {}, "one flex call"),
        ({}, {"tiltlm.logprobs.attention.varlen": "off"}, "one flex call"),
        ({"not_varlen": "no"}, {"tiltlm.logprobs.attention.flex": "off"}, "segment by segment"),
    ],
)
def test_the_first_route_that_can_and_agrees_is_taken(monkeypatch, refusals, wrongs, taken):
    def note(codes, name):
        return Note("is refused", code=codes[name]) if name in codes else None

    for name in ("not_varlen", "not_flex"):
        monkeypatch.setattr(routes, name, lambda case, name=name: note(refusals, name))
    monkeypatch.setattr(routes, "disagreement", lambda attend, case: note(wrongs, attend.__module__))
    route = route_of.__wrapped__(CASE)
    assert route.name == taken
    expected = [*refusals.values(), *wrongs.values(), *([] if taken == "segment by segment" else ["equal"])]
    assert [reason.code for reason in route.reasons] == expected


def test_a_case_is_what_the_call_has():
    query, key, value = (torch.randn(1, 300, heads, 6).transpose(1, 2).bfloat16() for heads in (4, 2, 2))
    case = Case.of(query, key, value[..., :5], Scores(0.3, 2.0, torch.zeros(4)))
    assert case == Case(torch.device("cpu"), torch.bfloat16, 4, 2, 6, 5, 0.3, 2.0, has_sinks=True, is_short=False)
    assert Case.of(query[:, :, :255], key, value, Scores(0.3)).is_short


def test_a_record_holds_every_window_and_each_route_once():
    record = AttentionRecord()
    for _ in range(2):
        forest_attention(Caller(), *draw(), None, layout=Layout(*LAYOUT), attention_record=record)
    assert record.windows == [None, None]
    assert record.routes == [SEGMENTS]
    assert [reason.code for reason in SEGMENTS.reasons] == ["not_cuda"]


def call(**extras):
    return forest_attention(extras.pop("module", Caller()), *draw(), None, layout=Layout(*LAYOUT), **extras)


def test_without_a_layout_nothing_is_computed():
    with raises(ModelError, "no_layout", mentions=["Caller"]):
        forest_attention(Caller(), *draw(), None)


@pytest.mark.parametrize("name", ["position_bias", "block_indices", "something_new"])
def test_unknown_extras_are_refused_by_name(name):
    with raises(ModelError, "unknown_keyword", key="model.layout", mentions=["Caller", f"`{name}`", "layout=padded"]):
        call(**{name: torch.zeros(1)})


def test_harmless_extras_pass():
    call(
        position_ids=torch.zeros(1, 23), use_cache=False, output_router_logits=True, something_new=None, is_causal=True
    )


@pytest.mark.parametrize(
    ("extras", "code"),
    [
        ({"dropout": 0.1}, "attention_dropout"),
        ({"is_causal": False}, "not_causal"),
        ({"module": Bidirectional()}, "not_causal"),
    ],
)
def test_dropout_and_bidirectional_attention_are_refused(extras, code):
    with raises(ModelError, code):
        call(**extras)


def test_a_mask_of_the_models_own_is_refused():
    with raises(ModelError, "own_mask", key="model.layout", mentions=["Caller", "layout=padded"]):
        forest_attention(Caller(), *draw(), torch.zeros(1, 1, 23, 23), layout=Layout(*LAYOUT))


def test_a_row_of_another_length_is_refused():
    with raises(ModelError, "wrong_shape", key="model.layout", mentions=["23", "layout=padded"]):
        forest_attention(Caller(), *draw(tokens=22), None, layout=Layout(*LAYOUT))


def test_autocast_narrows_mixed_queries_and_values():
    """After norms, queries and keys are float32 while values are bf16 already."""
    query, key, value = (t.detach().float() for t in draw())
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = forest_attention(Caller(), query, key, value.bfloat16(), None, layout=Layout(*LAYOUT))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), dense(query, key, value, Layout(*LAYOUT), 8**-0.5), atol=0.05, rtol=0)


def test_explicit_scores_soften_in_float32_at_least():
    query, key, value = (t.detach().bfloat16() for t in draw())
    assert segments._explicit(query, key, value, None, Scores(1.0, softcap=5.0)).dtype == torch.bfloat16
