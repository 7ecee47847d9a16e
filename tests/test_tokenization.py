"""Tokenizers: lossless on any text, the same each time, equal after saving."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from tfdoc import byte_tokenizer, train_bpe
from tfdoc.tokenization import _letters

TEXTS = [
    "The cat sat on the mat.",
    "the catalogue of the cats",
    "Füße, naïve 東京 🙂",
] * 3
BPE = train_bpe(TEXTS, vocab_size=290, special=("<end>",))
# All but halves of characters, which no text holds.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT)
def test_nothing_is_lost(text: str) -> None:
    plain = byte_tokenizer()
    assert plain.encode(text).ids == list(text.encode())
    assert plain.decode(plain.encode(text).ids) == text
    assert BPE.decode(BPE.encode(text, add_special_tokens=False).ids) == text


def test_a_byte_has_the_letter_of_the_library() -> None:
    assert sorted(_letters()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert byte_tokenizer().get_vocab_size() == 256


def test_pairs_make_texts_shorter() -> None:
    assert BPE.get_vocab_size() == 290
    text = "the cat"
    assert len(BPE.encode(text).ids) < len(text)
    assert BPE.encode("the cat").tokens[0] == "the"


def test_special_tokens_are_whole() -> None:
    assert BPE.token_to_id("<end>") == 0
    assert BPE.encode("the<end>the").ids[1] == 0
    plain = byte_tokenizer(special=("<begin>", "<end>"))
    assert plain.encode("<begin>a<end>").ids == [256, 97, 257]


def test_the_same_texts_give_the_same_tokenizer(tmp_path: Path) -> None:
    again = train_bpe(TEXTS, vocab_size=290, special=("<end>",))
    assert again.to_str() == BPE.to_str()
    BPE.save(str(tmp_path / "bpe.json"))
    loaded = Tokenizer.from_file(str(tmp_path / "bpe.json"))
    assert loaded.encode(TEXTS[2]).ids == BPE.encode(TEXTS[2]).ids


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match=r"several texts, got one; write \[text\]"):
        train_bpe("one text", vocab_size=290)
    with pytest.raises(
        ValueError, match=r"vocab_size must be at least 257, .* got 256"
    ):
        train_bpe(TEXTS, vocab_size=256, special=("<end>",))
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == "tokenizers":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install tokenizers"):
        byte_tokenizer()
