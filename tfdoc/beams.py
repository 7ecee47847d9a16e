"""Beam search: several continuations side by side, the best of which is kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tfdoc._checks import number, positive_int
from tfdoc.cache_stacks import ModelCache
from tfdoc.generation import exact, prompt_length, refuse_pairs, stops
from tfdoc.models import Decoder

__all__ = ["beam_search"]


def beam_search(
    model: Decoder,
    tokens: Tensor,
    *,
    beams: int,
    max_new_tokens: int,
    stop: Iterable[int] = (),
    length_penalty: float = 1.0,
    real: Tensor | None = None,
    **call: Any,
) -> Tensor:
    r"""Search for a likely continuation, not just likely tokens.

    At each step every one of the `beams` best beginnings is continued in all ways, and
    the best of all these are kept. A continuation that meets a stop token is set aside
    with the score

    .. math:: \frac{\sum_t \log p(\text{token}_t)}{n^{\text{length\_penalty}}}

    for n new tokens, the stop token included. The search ends when no beginning, as long
    as it is then, scores above the worst of the `beams` best that were set aside (Graves
    2012, arXiv:1211.3711; scores and end as in Hugging Face's).

    Parameters
    ----------
    model : Decoder
        In evaluation.
    tokens : Tensor of int
        The beginnings, shape (B, T).
    beams : int
        How many continuations are kept; 1 is greedy.
    max_new_tokens : int
        When to stop at the latest.
    stop : iterable of int
        Tokens that end a continuation.
    length_penalty : float
        Above 0 long continuations win, below 0 short ones.
    real : Tensor of bool, optional
        True at tokens, False at padding on the left, shape (B, T).
    **call
        Handed on to every call of the model, such as a context.

    Returns
    -------
    Tensor of int
        Shape (B, T + new); a row that ended early repeats the token that ended it.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or the model is training.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Causal, Decoder, LayerNorm, TransformerBlock, beam_search, part
    >>> block = part(TransformerBlock, num_heads=4, mask=Causal())
    >>> model = Decoder(16, vocab_size=97, blocks=(block,) * 2, norm=part(LayerNorm))
    >>> beam_search(
    ...     model.eval(), torch.tensor([[5, 3]]), beams=4, max_new_tokens=3
    ... ).shape
    torch.Size([1, 5])
    """
    length = prompt_length(model, tokens, max_new_tokens, real)
    refuse_pairs(call)
    positive_int("beams", beams)
    ends = stops(stop)
    penalty = number("length_penalty", length_penalty)
    if any(module.training for module in model.modules()):
        raise ValueError(
            "the model is training, where dropout makes scores random; call model.eval()"
        )
    search = _Search(tokens, beams, max_new_tokens, ends, penalty)
    first = {} if real is None else {"real": real}
    found = _run(search, model, tokens, model.new_cache(length), first, call)
    return torch.cat([tokens, found], 1)  # no tensor of inference: it may be trained on


@torch.inference_mode()
def _run(
    search: _Search,
    model: Decoder,
    tokens: Tensor,
    cache: ModelCache,
    first: dict[str, Any],
    call: dict[str, Any],
) -> Tensor:
    """Search step by step; return the best, shape (B, steps)."""
    logits = model(tokens, cache=cache, last=True, **first, **call)[:, -1]
    beams = search.scores.shape[1]
    rows = torch.arange(len(tokens), device=tokens.device)
    beam = rows.repeat_interleave(beams).view(-1, beams)
    for step in range(1, search.most + 1):
        cache.reorder(beam.flatten())
        if step > 1:
            latest = search.going[..., step - 2].flatten()[:, None]
            logits = model(latest, cache=cache, last=True, **call)[:, -1]
        else:
            logits = logits.repeat_interleave(beams, 0)
        beam = (
            search.extend(exact(logits).log_softmax(-1), step) + beams * rows[:, None]
        )
        if bool(search.settled.all()):
            break
    return search.best(step)


class _Search:
    """The beams of each row: those that go on, and those that have ended."""

    def __init__(
        self, tokens: Tensor, beams: int, most: int, ends: list[int], penalty: float
    ) -> None:
        self.most, self.penalty = most, penalty
        self.ends = torch.tensor(ends, device=tokens.device, dtype=tokens.dtype)
        rows = len(tokens)
        self.going = tokens.new_zeros(rows, beams, most)
        self.ended = self.going.clone()
        self.scores = torch.full((rows, beams), -torch.inf, device=tokens.device)
        self.ended_scores = self.scores.clone()
        self.scores[:, 0] = 0  # all begin alike: only the first is continued at first
        self.settled = torch.zeros(rows, dtype=torch.bool, device=tokens.device)

    def extend(self, shares: Tensor, step: int) -> Tensor:
        """Continue by one token; return the beam that each new one continues."""
        rows, beams = self.scores.shape
        table = (
            self.scores[..., None] + shares.view(rows, beams, shares.shape[-1])
        ).flatten(1)
        # Enough to go on with, even if a beam ends in every way there is.
        wanted = min(beams * max(2, 1 + len(self.ends)), table.shape[1])
        scores, at = table.topk(wanted)
        size = table.shape[1] // beams
        beam, token = at // size, at % size
        new = self.going.gather(1, beam[..., None].expand(-1, -1, self.most))
        new[..., step - 1 :] = token[..., None]
        over = torch.isin(token, self.ends) | (step == self.most)
        # Only what is among the best of this step counts as a result.
        counted = over & ~self.settled[:, None]
        counted[:, beams:] = False
        results = (scores / step**self.penalty).masked_fill(~counted, -torch.inf)
        every = torch.cat([self.ended_scores, results], 1)
        self.ended_scores, pick = every.topk(beams)
        self.ended = _rows(torch.cat([self.ended, new], 1), pick)
        self.scores, pick = scores.masked_fill(over, -torch.inf).topk(beams)
        self.going = _rows(new, pick)
        hope = self.scores[:, 0] / step**self.penalty
        self.settled |= self.ended_scores.amin(-1) >= hope
        return beam.gather(1, pick)

    def best(self, steps: int) -> Tensor:
        """Return the best that ended, shape (B, steps)."""
        winner = self.ended_scores.argmax(-1, keepdim=True)
        return _rows(self.ended, winner)[:, 0, :steps]


def _rows(x: Tensor, pick: Tensor) -> Tensor:
    """Pick beams of each row: (B, beams, n) by (B, k) to (B, k, n)."""
    return x.gather(1, pick[..., None].expand(-1, -1, x.shape[-1]))
