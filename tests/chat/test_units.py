"""Units give the ids and the places that ``tokenizers`` gives for the whole text, for every pattern that is known."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tests.support.tiny import CORPUS
from tunesmith.chat import units
from tunesmith.chat.tokens import ChatTokenizer
from tunesmith.chat.units import KNOWN_PATTERNS, UnitEncoder, WholePlaces

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im|>"]
TEXTS = [
    *CORPUS,
    "It's 3,141 o'clock, isn't it?",
    "foo.bar(x)  \n\n y",
    "Grüße, naïve café’s",
    "12345 abc 6 7",
    " a\t b",
]


def byte_level(regex: bool = True) -> pre_tokenizers.ByteLevel:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)


PRE_TOKENIZERS = {
    "gpt2": byte_level(),
    "digits": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()]),
    "digit runs": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), byte_level()]),
    **{
        f"pattern {number}": pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), byte_level(regex=False)]
        )
        for number, pattern in enumerate(sorted(KNOWN_PATTERNS))
    },
}


def make(pre_tokenizer: pre_tokenizers.PreTokenizer, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Merges over every pair that occurs, so that a cut in the wrong place would show.
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


TOKENIZERS = {name: make(part) for name, part in PRE_TOKENIZERS.items()}
TOKENIZERS["greedy"] = make(byte_level())
TOKENIZERS["greedy"].add_special_tokens(
    [
        AddedToken("<right>", rstrip=True, normalized=False, special=True),
        AddedToken("<left>", lstrip=True, normalized=False, special=True),
        AddedToken("<both>", lstrip=True, rstrip=True, normalized=False, special=True),
    ]
)
TOKENIZERS["nfc"] = make(PRE_TOKENIZERS["pattern 0"], normalizers.NFC())

PIECES = st.sampled_from(
    [
        *SPECIAL,
        *(
            "<|im",
            "hello",
            " world",
            "World",
            " It",
            "'s",
            "'S",
            "’s",
            "'",
            " '",
            "don't",
            " ",
            "  ",
            "\n",
            "\n\n",
            "\t",
        ),
        *("\r\n", ".", ", ", " (", ")", "…", "12", "3.5", " 2024", "é", "e\u0301", " \u0301", "你好", "🙂", "\u00a0"),
        *("\u200b", "\x85", "\x1c", "a", "B", "_", "://", "/", "foo.Bar", "\u0130", "ſ", "\x00"),
    ]
)
TEXT = st.one_of(st.lists(PIECES, max_size=14).map("".join), st.text(max_size=20))


@settings(max_examples=120)
@given(texts=st.lists(TEXT, min_size=1, max_size=3))
@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_and_places_are_those_of_the_whole(name: str, texts: list[str]) -> None:
    tokenizer = TOKENIZERS[name]
    encoder = UnitEncoder.of(tokenizer, tokenizer.to_str().encode())
    assert encoder is not None
    for text, found in zip(texts, encoder.encode(texts), strict=True):
        whole = WholePlaces(tokenizer.encode(text, add_special_tokens=False), len(text))
        assert "".join(encoder.cut(text)) == text
        assert found.ids == whole.ids
        if name == "nfc":
            continue  # a character that was composed belongs to two characters of the text
        # White space at the ends of tokens is left out of places unless the post-processor says otherwise.
        for position in range(len(text) + 1):
            token = found.token_at(position)
            assert token == whole.token_at(position)
            if token < len(found.ids):
                assert found.begin(token) == whole.begin(token)


def test_words_are_cut_where_they_end() -> None:
    tokenizer = TOKENIZERS["gpt2"]
    encoder = UnitEncoder.of(tokenizer, tokenizer.to_str().encode())
    assert encoder is not None
    assert encoder.cut("Hello, world (don't)\n<|im_end|>  x y") == [
        "Hello",
        ",",
        " world",
        " (don't",
        ")\n",
        "<|im_end|>",
        "  x",
        " y",
    ]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "_REMEMBERED", 10)
    tokenizer = TOKENIZERS["gpt2"]
    encoder = UnitEncoder.of(tokenizer, tokenizer.to_str().encode())
    assert encoder is not None
    for begin in range(0, 60, 4):
        texts = [
            f"word{letter} and again x{'y' * 100}" for letter in map(chr, range(97 + begin % 20, 101 + begin % 20))
        ]
        expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        assert [found.ids for found in encoder.encode(texts)] == expected
        assert len(encoder._known) <= 10 + 12
        assert max(map(len, encoder._known)) <= 64


OTHERS = {
    "prefix space": make(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "another pattern": make(
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\w+|\W+"), "isolated"), byte_level(regex=False)])
    ),
    "white space": make(pre_tokenizers.Whitespace()),
    "metaspace": make(pre_tokenizers.Metaspace()),
    "another normalizer": make(byte_level(), normalizers.Lowercase()),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_tokenizers_are_left_alone(name: str) -> None:
    assert UnitEncoder.of(OTHERS[name], OTHERS[name].to_str().encode()) is None


def test_tokens_of_whole_words_are_left_alone() -> None:
    tokenizer = make(byte_level())
    tokenizer.add_special_tokens([AddedToken("<word>", single_word=True, normalized=False, special=True)])
    assert UnitEncoder.of(tokenizer, tokenizer.to_str().encode()) is None


def test_a_tokenizer_without_added_tokens() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level()
    trainer = trainers.BpeTrainer(initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    encoder = UnitEncoder.of(tokenizer, tokenizer.to_str().encode())
    assert encoder is not None
    (found,) = encoder.encode(["Hello, world"])
    assert found.ids == tokenizer.encode("Hello, world").ids


def test_batches_are_encoded_as_one_by_one(tokenizers: dict[str, ChatTokenizer]) -> None:
    from tests.chat.test_tokens import talk

    for name in ("chatml", "phi3", "thinking", "late", "metaspace"):
        tokenizer = tokenizers[name]
        rows = [talk(*[(role, f"{n} It's\n {role}.") for role in ("user", "assistant") * 2]) for n in range(3)]
        encoded = tokenizer.encode_batch([tokenizer.render_marked(row) for row in rows])
        assert encoded == [tokenizer.encode(row) for row in rows]
        assert all(left.end <= right.start for item in encoded for left, right in pairwise(item.spans))
