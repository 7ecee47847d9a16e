"""Tokens of text, by the library `tokenizers`: bytes, and pairs of bytes merged."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import TYPE_CHECKING, Any

from tfdoc._checks import positive_int

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["byte_tokenizer", "train_bpe"]


def byte_tokenizer(*, special: tuple[str, ...] = ()) -> Tokenizer:
    """Make a tokenizer whose tokens are the 256 bytes of UTF-8.

    It knows every text and loses nothing; sequences are long. Nothing is learned.

    Parameters
    ----------
    special : tuple of str
        Tokens of a meaning of their own, such as ``"<end>"``: ids from 256 on.

    Returns
    -------
    tokenizers.Tokenizer
        ``.encode(text).ids`` and ``.decode(ids)``; a byte's id is the byte.

    Raises
    ------
    ImportError
        If the library is missing.

    Examples
    --------
    >>> from tfdoc import byte_tokenizer
    >>> tokenizer = byte_tokenizer(special=("<end>",))
    >>> tokenizer.encode("né<end>").ids
    [110, 195, 169, 256]
    >>> tokenizer.decode([110, 195, 169])
    'né'
    """
    _check_special(special)
    library = _library()
    vocabulary = {letter: byte for byte, letter in enumerate(_letters())}
    return _byte_level(library, library.models.BPE(vocabulary, []), special)


def train_bpe(
    texts: Iterable[str], *, vocab_size: int, special: tuple[str, ...] = ()
) -> Tokenizer:
    """Learn a byte-level BPE tokenizer: the most frequent pair becomes a token, again and again.

    It begins with the 256 bytes, so it too knows every text and loses nothing (Sennrich
    et al. 2016, arXiv:1508.07909; on bytes in GPT-2). The same texts give the same
    tokenizer.

    Parameters
    ----------
    texts : iterable of str
        What to learn from.
    vocab_size : int
        Tokens at the end, bytes and special ones included; fewer where the texts have no
        more pairs.
    special : tuple of str
        Tokens of a meaning of their own, which are never split: ids from 0 on.

    Returns
    -------
    tokenizers.Tokenizer
        ``.encode(text).ids``, ``.decode(ids)`` and ``.save(path)``.

    Raises
    ------
    ImportError
        If the library is missing.
    TypeError, ValueError
        If `texts` is one text, or `vocab_size` leaves no room for the bytes.

    Examples
    --------
    >>> from tfdoc import train_bpe
    >>> tokenizer = train_bpe(["the cat, the hat, the bat"], vocab_size=260)
    >>> tokenizer.encode("the bat").tokens
    ['the', 'Ġ', 'b', 'at']
    """
    if isinstance(texts, str):
        raise TypeError("texts must be several texts, got one; write [text]")
    _check_special(special)
    least = 256 + len(special)
    if positive_int("vocab_size", vocab_size) < least:
        raise ValueError(
            f"vocab_size must be at least {least}, the 256 bytes and {len(special)} "
            f"special tokens, got {vocab_size}"
        )
    library = _library()
    tokenizer = _byte_level(library, library.models.BPE(), ())
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=_letters(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _check_special(special: object) -> None:
    if not isinstance(special, tuple):
        raise TypeError(
            f"special must be a tuple of texts, got {special!r}; write (text,)"
        )
    for text in special:
        if not isinstance(text, str) or len(text.encode()) < 2:
            raise ValueError(
                "a special token must be a text of at least two bytes, for each byte has "
                f"a token already; got {text!r}"
            )
    if len({*special}) < len(special):
        raise ValueError(f"special must name each token once, got {special!r}")


def _byte_level(library: Any, model: Any, special: tuple[str, ...]) -> Tokenizer:
    tokenizer: Tokenizer = library.Tokenizer(model)
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def _letters() -> list[str]:
    """Return the letter that stands for each byte in the library's tables."""
    # Bytes that print stand for themselves, the others for the letters from 256 on.
    prints = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = count(256)
    return [chr(byte if byte in prints else next(others)) for byte in range(256)]


def _library() -> Any:
    try:
        import tokenizers  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "tokenizers are made by the library of this name; pip install tokenizers, or "
            "tfdoc[pages]"
        ) from error
    return tokenizers
