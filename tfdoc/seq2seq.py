"""From one sequence to another: an encoder that feeds a decoder."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor, nn

from tfdoc._call import stand
from tfdoc._checks import flag, positive_int
from tfdoc.caches import Places
from tfdoc.embedding import TokenEmbedding
from tfdoc.models import Decoder, Encoder
from tfdoc.parts import Part

__all__ = ["EncoderDecoder"]


class Context(TypedDict):
    """What :meth:`EncoderDecoder.encode` returns: keywords of the decoder's call."""

    context: Tensor
    context_positions: Places


class EncoderDecoder(nn.Module):
    r"""A decoder that reads what an encoder made of another sequence: T5, BART, Whisper.

    .. math:: z = \operatorname{decoder}(\text{target},\;
              \operatorname{encoder}(\operatorname{embed}(\text{source})))

    (Vaswani et al. 2017.)

    Parameters
    ----------
    embed_dim : int
        Width D of both.
    embed : Part
        Of the source: ``part(TokenEmbedding, vocab_size=...)``.
    encoder : Part
        An :class:`Encoder`.
    decoder : Part
        A :class:`Decoder` of blocks with cross-attention.
    shared : bool
        Whether source and target share one table of tokens.

    Raises
    ------
    TypeError, ValueError
        If a part is none or refuses its settings, or shared tables differ in size.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Causal, Decoder, Encoder, EncoderDecoder, FeedForward
    >>> from tfdoc import MultiHeadAttention, PostNormBlock, PostNormCrossBlock
    >>> from tfdoc import TokenEmbedding, part
    >>> ffn = part(FeedForward, hidden_dim=64)
    >>> heads = part(MultiHeadAttention, num_heads=4)
    >>> past = heads.but(mask=Causal())
    >>> block = part(PostNormBlock, attention=heads, feedforward=ffn)
    >>> cross = part(
    ...     PostNormCrossBlock, attention=past, cross_attention=heads, feedforward=ffn
    ... )
    >>> model = EncoderDecoder(
    ...     16,
    ...     embed=part(TokenEmbedding, vocab_size=97),
    ...     encoder=part(Encoder, blocks=(block,) * 2),
    ...     decoder=part(Decoder, vocab_size=97, blocks=(cross,) * 2, tied=True),
    ... )
    >>> source, target = torch.tensor([[5, 3, 96, 7]]), torch.tensor([[1, 2]])
    >>> model(source, target).shape
    torch.Size([1, 2, 97])
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        embed: Part[TokenEmbedding],
        encoder: Part[Encoder],
        decoder: Part[Decoder],
        shared: bool = True,
    ) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        given: dict[str, object] = {
            "embed": embed,
            "encoder": encoder,
            "decoder": decoder,
        }
        for name, recipe in given.items():
            if not isinstance(recipe, Part):
                raise TypeError(
                    f"{name} must be a part, got {type(recipe).__name__}; "
                    "write part(Component, ...) instead of Component(...)"
                )
        self.embed = embed.build(embed_dim)
        self.encoder = encoder.build(embed_dim)
        self.decoder = decoder.build(embed_dim)
        self.shared = flag("shared", shared)
        if shared:
            if not isinstance(self.embed, TokenEmbedding):
                raise TypeError(
                    "shared=True needs a TokenEmbedding, got "
                    f"{type(self.embed).__name__}; shared=False keeps two tables"
                )
            if self.embed.vocab_size != self.decoder.vocab_size:
                raise ValueError(
                    f"shared=True needs one vocab_size, got {self.embed.vocab_size} for "
                    f"the source and {self.decoder.vocab_size} for the target"
                )
            self.embed.weight = None  # one table: nothing that could come apart

    def encode(self, source: Tensor, real: Tensor | None = None) -> Context:
        """Read the source once: what every call of the decoder then looks at.

        Parameters
        ----------
        source : Tensor of int
            Tokens, shape (B, S).
        real : Tensor of bool, optional
            True at tokens, False at padding, shape (B, S).

        Returns
        -------
        dict
            Keywords for the decoder: ``model.decoder(target, **model.encode(source))``.
        """
        at = stand(source, real, None, None)
        table = {"weight": self.decoder.embed.weight} if self.shared else {}
        x = self.embed(source, at, **table)
        context = self.encoder(x, positions=at)
        return {"context": context, "context_positions": at}

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        *,
        real: Tensor | None = None,
        target_real: Tensor | None = None,
    ) -> Tensor:
        """Score what comes after each token of the target.

        Parameters
        ----------
        source, target : Tensor of int
            Tokens, shape (B, S) and (B, T).
        real, target_real : Tensor of bool, optional
            True at tokens, False at padding, in the same shapes.

        Returns
        -------
        Tensor
            Shape (B, T, V).
        """
        context = self.encode(source, real)
        logits: Tensor = self.decoder(target, real=target_real, **context)
        return logits
