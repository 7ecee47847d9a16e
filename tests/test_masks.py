"""Masks against truth tables from Python loops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tfdoc import BlockCausal, Causal, Chunked, Mask, Padding, Prefix, Window

TRUTH: list[tuple[Mask, Callable[[int, int], bool]]] = [
    (Causal(), lambda q, k: k <= q),
    (Window(1), lambda q, k: q == k),
    (Window(3), lambda q, k: abs(q - k) < 3),
    (Causal() & Window(2), lambda q, k: k in (q, q - 1)),
    (Causal() | Window(2), lambda q, k: k <= q + 1),
    (~Causal(), lambda q, k: k > q),
    (Chunked(3), lambda q, k: q // 3 == k // 3),
    (Causal() & Chunked(2), lambda q, k: k == q or (k == q - 1 and q % 2 == 1)),
    (BlockCausal(1), lambda q, k: k <= q),
    (BlockCausal(3), lambda q, k: k // 3 <= q // 3),
    (Prefix(2), lambda q, k: k in (0, 1)),
    (Causal() | Prefix(4), lambda q, k: k <= q or k < 4),
    (~(Causal() & Window(2)) | Window(1), lambda q, k: k != q - 1),
]

NAMES = [str(mask) for mask, _ in TRUTH]


@pytest.mark.parametrize(("mask", "truth"), TRUTH, ids=NAMES)
@pytest.mark.parametrize("length", [1, 2, 7])
def test_truth_tables(
    mask: Mask, truth: Callable[[int, int], bool], length: int
) -> None:
    expected = [[truth(q, k) for k in range(length)] for q in range(length)]
    assert mask.table(length).tolist() == expected


@pytest.mark.parametrize(("mask", "truth"), TRUTH, ids=NAMES)
def test_positions_are_absolute(mask: Mask, truth: Callable[[int, int], bool]) -> None:
    queries, keys = [5, 9], [3, 4, 5, 8]
    expected = [[truth(q, k) for k in keys] for q in queries]
    assert mask(torch.tensor(queries), torch.tensor(keys)).tolist() == expected


def test_positions_may_differ_from_row_to_row() -> None:
    rows = torch.tensor([[0, 1, 2], [4, 5, 6]])
    table = Causal()(rows, torch.tensor([0, 2, 5]))
    assert table.shape == (2, 1, 3, 3)
    for b in range(2):
        expected = [[k <= q for k in (0, 2, 5)] for q in rows[b].tolist()]
        assert table[b, 0].tolist() == expected


def test_padding_hides_what_lies_behind_the_length() -> None:
    at = torch.arange(4)
    table = Padding([0, 1, 4])(at, at)
    assert table.shape == (3, 1, 4, 4)
    for b, length in enumerate((0, 1, 4)):
        assert table[b, 0].tolist() == [[k < length for k in range(4)]] * 4


def test_padding_combines_with_causal() -> None:
    at = torch.arange(3)
    table = (Causal() & Padding(torch.tensor([2, 3])))(at, at)
    assert table[0, 0].tolist() == [
        [k <= min(q, 1) for k in range(3)] for q in range(3)
    ]
    assert table[1, 0].tolist() == Causal().table(3).tolist()


def test_a_window_as_long_as_the_sequence_hides_nothing() -> None:
    assert Window(6).table(6).all()
    assert torch.equal((Causal() & Window(6)).table(6), Causal().table(6))


def test_masks_compare_and_print() -> None:
    assert Causal() & Window(2) == Causal() & Window(2)
    assert hash(~Causal()) == hash(~Causal())
    assert Causal() & Window(2) != Causal() & Window(3)
    shown = repr(~(Causal() & Window(2)) | Padding([1, 2]))
    assert shown == "(~(Causal() & Window(size=2)) | Padding([1, 2]))"


def test_your_own_mask_is_one_method() -> None:
    class EverySecond(Mask):
        def allows(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return (query - key) % 2 == 0

    table = (EverySecond() & Causal()).table(3)
    assert table.tolist() == [
        [True, False, False],
        [False, True, False],
        [True, False, True],
    ]


def test_a_mask_without_its_method_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Mask()  # type: ignore[abstract]
