"""Text and stop strings of a generation, token by token."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_reference.models.tokenizer import ByteTokenizer, FileTokenizer
from scripted_reference.server import wire
from scripted_reference.server.detokenizer import IncrementalText
from scripted_reference.server.generation import Generation
from scripted_reference.server.http_errors import RequestError
from scripted_reference.server.plans import stop_strings
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=10, stage="reference", runner_config="cpu")

_TOKENIZER = ByteTokenizer()


class _CountingTokenizer(ByteTokenizer):
    """Counts the tokens that it has decoded."""

    def __init__(self):
        self.decoded = 0

    def decode(self, ids):
        self.decoded += len(ids)
        return super().decode(ids)


def _tokens_of(raw):
    return [byte + 3 for byte in raw]


_TOKENS = st.lists(
    st.one_of(
        st.text(max_size=8).map(_TOKENIZER.encode),
        st.binary(max_size=6).map(_tokens_of),
        st.integers(0x80, 0xF4).map(lambda byte: _tokens_of([byte] * 50)),
        st.lists(st.sampled_from([0, 1, 300, 5000]), max_size=3),
    ),
    max_size=12,
).map(lambda parts: [token for part in parts for token in part])


@given(ids=_TOKENS, step=st.integers(1, 40))
def test_text_is_at_any_time_that_of_all_tokens_and_what_is_settled_stays(ids, step):
    text, settled = IncrementalText(_TOKENIZER), ""
    for begin in range(0, len(ids), step):
        text.feed(ids[begin : begin + step])
        assert text.text == _TOKENIZER.decode(ids[: begin + step])
        assert text.text.startswith(settled)
        settled = text.text[: text.settled_characters]


def test_a_vocabulary_whose_words_begin_with_a_space_and_whose_characters_come_in_bytes(tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    words = ["\u2581a", "\u2581", "b", "<0xE2>", "<0x82>", "<0xAC>", "</s>"]
    model = tokenizers.models.BPE({word: i for i, word in enumerate(words)}, [])
    loaded = tokenizers.Tokenizer(model)
    decoders = tokenizers.decoders
    loaded.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    loaded.add_special_tokens(["</s>"])
    loaded.save(str(tmp_path / "tokenizer.json"))
    tokenizer = FileTokenizer(tmp_path / "tokenizer.json")
    ids = [0, 1, 0, 2, 3, 4, 5, *[6] * 80, 0, *[0, 2, 6, 1] * 20, 3, 4, 5, 3, 4, 5, 0]
    text = IncrementalText(tokenizer)
    for token in ids:
        text.feed([token])
    assert text.text == tokenizer.decode(ids)
    assert text.text.startswith("a  ab\u20ac a ab  ab")


def _run(tokenizer, ids, *, stop):
    message = wire.Generate(rid="r", input_ids=[1], max_new_tokens=len(ids))
    generation = Generation(message, tokenizer=tokenizer, stop=stop)

    async def run():
        for i, token in enumerate(ids):
            finish = wire.Finish("length") if i == len(ids) - 1 else None
            generation.receive(wire.Output(rid="r", token_ids=[token], finish=finish))
            await generation.advance()
            if generation.finish is not None:
                return

    asyncio.run(run())
    return generation


@pytest.mark.parametrize("raw", [b"abc ", b"\x80", b"\xe2\x82\xac"])
def test_a_token_costs_the_same_however_many_came_before(raw):
    costs = []
    for count in (500, 2000):
        tokenizer = _CountingTokenizer()
        ids = _tokens_of((raw * count)[:count])
        generation = _run(tokenizer, ids, stop=("zzz",))
        assert generation.text == _TOKENIZER.decode(ids)
        costs.append(tokenizer.decoded / count)
    assert costs[1] < 1.1 * costs[0] + 1


@given(
    text=st.text("ab\u20ac", max_size=30),
    stop=st.lists(st.text("ab\u20ac\ufffd", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_a_stop_string_ends_where_reading_all_of_the_text_each_time_would(text, stop):
    ids = _TOKENIZER.encode(text + "!")
    generation = _run(_TOKENIZER, ids, stop=stop)
    for length in range(1, len(ids) + 1):
        so_far = _TOKENIZER.decode(ids[:length])
        found = [(so_far.find(one), one) for one in stop if one in so_far]
        if found:
            at, matched = min(found)
            assert (generation.text, generation.stop_string) == (so_far[:at], matched)
            assert generation.output_ids == ids[:length]
            return
    assert (generation.text, generation.stop_string) == (text + "!", None)


def test_stop_strings_are_as_many_as_can_be_looked_for():
    assert len(stop_strings([str(i) for i in range(64)])) == 64
    with pytest.raises(RequestError, match="stop has 65 strings, and 64 is the most"):
        stop_strings([str(i) for i in range(65)])
