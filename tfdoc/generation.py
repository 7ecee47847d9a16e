"""Generation: from a model of the next token to a text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from tfdoc._checks import count, positive_int
from tfdoc._tensor_checks import describe, token_mask
from tfdoc.absolute import LearnedPositions
from tfdoc.cache_stacks import ModelCache
from tfdoc.masks import Padding
from tfdoc.models import Decoder
from tfdoc.sampling import Rule

__all__ = ["generate", "stream"]


def generate(
    model: Decoder,
    tokens: Tensor,
    *,
    max_new_tokens: int,
    rules: Sequence[Rule] = (),
    seed: int | None = None,
    stop: Iterable[int] = (),
    real: Tensor | None = None,
    cache: ModelCache | None = None,
    progress: bool = True,
    **call: Any,
) -> Tensor:
    """Continue token sequences: the likeliest token each time, or one drawn at random.

    Parameters
    ----------
    model : Decoder
        It runs in evaluation and without gradients, and each of its modules is left as
        it was.
    tokens : Tensor of int
        The beginnings, shape (B, T).
    max_new_tokens : int
        When to stop at the latest.
    rules : sequence of Rule
        Applied in this order to the logits before the choice: ``[Temperature(0.8),
        TopP(0.95)]``.
    seed : int, optional
        Draw from the probabilities, with a generator of its own; the global one is not
        touched. Without a seed the likeliest token is taken.
    stop : iterable of int
        Tokens that end a row. From there on the row repeats the token that ended it;
        when all rows have ended, so does the generation.
    real : Tensor of bool, optional
        True at tokens, False at padding, shape (B, T). Padding stands on the left: what
        is generated follows the last column.
    cache : ModelCache, optional
        Made with room for everything by default.
    progress : bool
        Show a bar on the terminal when it takes longer than a few seconds.
    **call
        Handed on to every call of the model, such as a context; no positions, which
        differ from call to call.

    Returns
    -------
    Tensor of int
        Shape (B, T + new), at most `max_new_tokens` longer.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range or of another kind, padding stands on the right, a
        row has no token, or the model's learned positions do not reach that far.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Causal, Decoder, LayerNorm, TransformerBlock, generate, part
    >>> block = part(TransformerBlock, num_heads=4, mask=Causal())
    >>> model = Decoder(16, vocab_size=97, blocks=(block,) * 2, norm=part(LayerNorm))
    >>> generate(model, torch.tensor([[5, 3, 96]]), max_new_tokens=4, seed=0).shape
    torch.Size([1, 7])
    """
    steps = stream(
        model,
        tokens,
        max_new_tokens=max_new_tokens,
        rules=rules,
        seed=seed,
        stop=stop,
        real=real,
        cache=cache,
        **call,
    )
    # A bar appears after some seconds, and only where somebody may be looking.
    shown = tqdm(
        steps,
        total=max_new_tokens,
        unit="token",
        delay=3,
        leave=False,
        disable=None if progress else True,
    )
    return torch.cat([tokens, *(new[:, None] for new in shown)], 1)


def stream(
    model: Decoder,
    tokens: Tensor,
    *,
    max_new_tokens: int,
    rules: Sequence[Rule] = (),
    seed: int | None = None,
    stop: Iterable[int] = (),
    real: Tensor | None = None,
    cache: ModelCache | None = None,
    **call: Any,
) -> Iterator[Tensor]:
    """Yield what :func:`generate` adds, token by token.

    Arguments and errors are those of :func:`generate`; they are checked at the call.

    Yields
    ------
    Tensor of int
        The next token of each row, shape (B,).

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Causal, Decoder, LayerNorm, TransformerBlock, part, stream
    >>> block = part(TransformerBlock, num_heads=4, mask=Causal())
    >>> model = Decoder(16, vocab_size=97, blocks=(block,) * 2, norm=part(LayerNorm))
    >>> [len(new) for new in stream(model, torch.tensor([[5, 3]]), max_new_tokens=3)]
    [1, 1, 1]
    """
    length = prompt_length(model, tokens, max_new_tokens, real, cache)
    refuse_pairs(call)
    choose = _chooser(rules, seed, tokens.device)
    ends = torch.tensor(stops(stop), device=tokens.device)
    held = model.new_cache(length) if cache is None else cache
    # Faster by far fewer checks, but a cache made so could not be used in training.
    mode = torch.inference_mode if cache is None else torch.no_grad

    def steps() -> Iterator[Tensor]:
        seen = tokens if real is None else tokens.masked_fill(~real, -1)
        new, ended = tokens, torch.zeros(len(tokens), dtype=torch.bool)
        ended = ended.to(tokens.device)
        awake = [module for module in model.modules() if module.training]
        for step in range(max_new_tokens):
            padding = {} if step or real is None else {"real": real}
            with _asleep(awake), mode():
                logits = model(new, cache=held, last=True, **padding, **call)
            chosen = choose(logits[:, -1].clone(), seen)  # now a tensor as any other
            if len(ends):
                chosen = torch.where(ended, seen[:, -1], chosen)
                ended = ended | torch.isin(chosen, ends)
            if rules or len(ends):
                seen = torch.cat([seen, chosen[:, None]], 1)
            new = chosen[:, None]
            yield chosen
            if len(ends) and bool(ended.all()):
                return

    return steps()


@contextmanager
def _asleep(awake: list[nn.Module]) -> Iterator[None]:
    """Put modules that are training in evaluation, for the time of a call."""
    for module in awake:
        module.training = False
    try:
        yield
    finally:
        for module in awake:
            module.training = True


def stops(given: object) -> list[int]:
    """Return the tokens that end a text, sorted."""
    if not isinstance(given, Iterable):
        raise TypeError(f"stop must hold tokens, such as [{given}], got {given!r}")
    return sorted({count("stop", token) for token in given})


def exact(logits: Tensor) -> Tensor:
    """Return them in float32 or better: in less, different ones become alike."""
    return logits if logits.dtype is torch.float64 else logits.float()


def _chooser(
    rules: object, seed: int | None, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what chooses one token a row from logits and the tokens so far."""
    if not isinstance(rules, Sequence):
        raise TypeError(f"rules must be a sequence, such as [{rules!r}], got {rules!r}")
    for rule in rules:
        given: object = rule
        if not isinstance(given, Rule):
            raise TypeError(
                f"rules must hold rules such as Temperature(0.8), got {given!r}"
            )
    generator = None
    if seed is not None:
        generator = torch.Generator(device).manual_seed(count("seed", seed))

    def choose(logits: Tensor, seen: Tensor) -> Tensor:
        if rules or generator is not None:
            logits = exact(logits)
        for rule in rules:
            logits = rule(logits, seen)
        if generator is None:
            return logits.argmax(-1)
        shares = logits.softmax(-1)
        return torch.multinomial(shares, 1, generator=generator)[:, 0]

    return choose


def refuse_pairs(call: dict[str, Any]) -> None:
    """Refuse what fits one call of the model only: each has other tokens."""
    mask = call.get("mask")
    for name in ("positions", "mask", "position_bias"):
        if isinstance(call.get(name), Tensor) or name == "positions" in call:
            raise ValueError(
                f"{name} would be the same for every new token; pad on the left and give "
                "real=, or give the model a Mask or Bias"
            )
    if isinstance(mask, Padding):
        raise ValueError(  # noqa: TRY004 - as a mask it is of the right type
            f"{mask} would hide what is generated; pad on the left and give real="
        )


def prompt_length(
    model: Decoder,
    tokens: object,
    max_new_tokens: int,
    real: Tensor | None,
    cache: ModelCache | None = None,
) -> int:
    """Check a prompt and return how long it may become, with what the cache holds."""
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or not tokens.shape[1]:
        raise ValueError(
            "tokens must hold at least one token a row, shape (batch, tokens), got "
            f"{describe(tokens)}; begin with the token that begins a text"
        )
    if tokens.is_floating_point() or tokens.dtype is torch.bool:
        raise TypeError(f"tokens must hold whole numbers, got {describe(tokens)}")
    if not (cache is None or isinstance(cache, ModelCache)):
        raise TypeError(
            f"cache must be a ModelCache, got {type(cache).__name__}; model.new_cache() "
            "makes one"
        )
    held = 0 if cache is None else cache.length
    length = held + tokens.shape[1] + positive_int("max_new_tokens", max_new_tokens)
    longest = length
    if real is not None:
        mask = token_mask(real, "tokens", tokens.unsqueeze(-1), "real")
        if not bool(mask[:, -1].all()) or bool((mask[:, :-1] & ~mask[:, 1:]).any()):
            raise ValueError(
                "real must be padding first and then tokens in every row, for what is "
                "generated follows the last column; pad on the left"
            )
        most = int(mask.sum(1).max()) if len(mask) else 0
        longest = held + most + max_new_tokens
    for part in model.modules():
        if isinstance(part, LearnedPositions) and longest - 1 > part.max_positions:
            raise ValueError(
                f"{longest - max_new_tokens} tokens and max_new_tokens={max_new_tokens} "
                f"go beyond max_positions={part.max_positions}; ask for at most "
                f"{part.max_positions + 1 - longest + max_new_tokens}"
            )
    return length
