"""Readable transformer components; the package behind the pages of tfdoc.

``import tfdoc`` imports nothing else: every name is looked up at first use, so that
``tfdoc.estimate_params`` runs without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tfdoc.absolute import LearnedPositions, Sinusoidal
    from tfdoc.balancing import load_balancing_loss, router_z_loss
    from tfdoc.beams import beam_search
    from tfdoc.biases import ALiBi, Bias, RelativeBias
    from tfdoc.block_masks import BlockCausal, Chunked, Prefix
    from tfdoc.blocks import PostNormBlock, PreNormBlock
    from tfdoc.bounded_caches import PreallocatedCache, SlidingCache
    from tfdoc.cache_stacks import ModelCache, PairedCache
    from tfdoc.caches import Cache, GrowingCache
    from tfdoc.cores import DotProductCore, attention, fused_attention
    from tfdoc.cost import (
        Accelerator,
        Entry,
        Estimate,
        Ledger,
        accelerator,
        count_params,
        estimate,
        estimate_params,
        ledger,
    )
    from tfdoc.crossing import PostNormCrossBlock, PreNormCrossBlock
    from tfdoc.embedding import Head, TokenEmbedding
    from tfdoc.experts import ClampedExperts, GatedExperts, ScaledInputExperts
    from tfdoc.factorised import FactorisedEmbedding
    from tfdoc.feedforward import (
        FeedForward,
        GatedFeedForward,
        SigmoidGate,
        relu_squared,
    )
    from tfdoc.generation import generate, stream
    from tfdoc.grouped_routers import GroupedSoftmaxRouter
    from tfdoc.initialisation import init_deepnorm_, init_gpt2_, init_small_
    from tfdoc.interop import from_torch, mask_from_torch
    from tfdoc.latent import LatentAttention
    from tfdoc.layers import TransformerBlock, TransformerLayer
    from tfdoc.layouts import half_to_interleaved, interleaved_to_half
    from tfdoc.long_context import Llama3Scaling, LongRoPE, YaRN
    from tfdoc.masks import Causal, Mask, Padding, Window
    from tfdoc.models import Decoder, Encoder
    from tfdoc.moe import MixtureOfExperts
    from tfdoc.multihead import MultiHeadAttention
    from tfdoc.norms import LayerNorm, RMSNorm, UnitOffsetRMSNorm
    from tfdoc.parts import Part, part
    from tfdoc.positions import RoPE
    from tfdoc.presets import preset, preset_names
    from tfdoc.probe import Probe, Recording, record
    from tfdoc.qknorm import AcrossHeads, EachHead
    from tfdoc.rehearsal import Rehearsal, rehearse
    from tfdoc.repeated import RepeatedBlock
    from tfdoc.routers import SigmoidRouter, SoftmaxRouter
    from tfdoc.sampling import (
        MinP,
        RepetitionPenalty,
        Rule,
        Temperature,
        TopK,
        TopP,
    )
    from tfdoc.scaled import DeepNormBlock, LayerScale, ResidualScale, ReZero
    from tfdoc.scalings import (
        DynamicNTKScaling,
        LinearScaling,
        NTKScaling,
        Scaling,
    )
    from tfdoc.score_cores import SinkCore, SoftcapCore
    from tfdoc.seq2seq import EncoderDecoder
    from tfdoc.sparse_mixer import SparseMixerRouter
    from tfdoc.text_encoders import MaskedHead, Pooler, TextEncoder
    from tfdoc.token_types import TokenTypes
    from tfdoc.tokenization import byte_tokenizer, train_bpe
    from tfdoc.wirings import (
        OutputNormBlock,
        ParallelBlock,
        SandwichBlock,
        TwoNormParallelBlock,
    )

__all__ = [
    "ALiBi",
    "Accelerator",
    "AcrossHeads",
    "Bias",
    "BlockCausal",
    "Cache",
    "Causal",
    "Chunked",
    "ClampedExperts",
    "Decoder",
    "DeepNormBlock",
    "DotProductCore",
    "DynamicNTKScaling",
    "EachHead",
    "Encoder",
    "EncoderDecoder",
    "Entry",
    "Estimate",
    "FactorisedEmbedding",
    "FeedForward",
    "GatedExperts",
    "GatedFeedForward",
    "GroupedSoftmaxRouter",
    "GrowingCache",
    "Head",
    "LatentAttention",
    "LayerNorm",
    "LayerScale",
    "LearnedPositions",
    "Ledger",
    "LinearScaling",
    "Llama3Scaling",
    "LongRoPE",
    "Mask",
    "MaskedHead",
    "MinP",
    "MixtureOfExperts",
    "ModelCache",
    "MultiHeadAttention",
    "NTKScaling",
    "OutputNormBlock",
    "Padding",
    "PairedCache",
    "ParallelBlock",
    "Part",
    "Pooler",
    "PostNormBlock",
    "PostNormCrossBlock",
    "PreNormBlock",
    "PreNormCrossBlock",
    "PreallocatedCache",
    "Prefix",
    "Probe",
    "RMSNorm",
    "ReZero",
    "Recording",
    "Rehearsal",
    "RelativeBias",
    "RepeatedBlock",
    "RepetitionPenalty",
    "ResidualScale",
    "RoPE",
    "Rule",
    "SandwichBlock",
    "ScaledInputExperts",
    "Scaling",
    "SigmoidGate",
    "SigmoidRouter",
    "SinkCore",
    "Sinusoidal",
    "SlidingCache",
    "SoftcapCore",
    "SoftmaxRouter",
    "SparseMixerRouter",
    "Temperature",
    "TextEncoder",
    "TokenEmbedding",
    "TokenTypes",
    "TopK",
    "TopP",
    "TransformerBlock",
    "TransformerLayer",
    "TwoNormParallelBlock",
    "UnitOffsetRMSNorm",
    "Window",
    "YaRN",
    "accelerator",
    "attention",
    "beam_search",
    "byte_tokenizer",
    "count_params",
    "estimate",
    "estimate_params",
    "from_torch",
    "fused_attention",
    "generate",
    "half_to_interleaved",
    "init_deepnorm_",
    "init_gpt2_",
    "init_small_",
    "interleaved_to_half",
    "ledger",
    "load_balancing_loss",
    "mask_from_torch",
    "part",
    "preset",
    "preset_names",
    "record",
    "rehearse",
    "relu_squared",
    "router_z_loss",
    "stream",
    "train_bpe",
]

if not TYPE_CHECKING:
    # No module shares its name with a public object, or the first import of the
    # module would hide the object.
    _HOMES = {
        "balancing": "load_balancing_loss router_z_loss",
        "absolute": "LearnedPositions Sinusoidal",
        "beams": "beam_search",
        "biases": "ALiBi Bias RelativeBias",
        "block_masks": "BlockCausal Chunked Prefix",
        "blocks": "PostNormBlock PreNormBlock",
        "cache_stacks": "ModelCache PairedCache",
        "layers": "TransformerBlock TransformerLayer",
        "bounded_caches": "PreallocatedCache SlidingCache",
        "caches": "Cache GrowingCache",
        "cores": "DotProductCore attention fused_attention",
        "cost": (
            "Accelerator Entry Estimate Ledger accelerator count_params estimate "
            "estimate_params ledger"
        ),
        "crossing": "PostNormCrossBlock PreNormCrossBlock",
        "embedding": "Head TokenEmbedding",
        "experts": "ClampedExperts GatedExperts ScaledInputExperts",
        "feedforward": "FeedForward GatedFeedForward SigmoidGate relu_squared",
        "factorised": "FactorisedEmbedding",
        "generation": "generate stream",
        "grouped_routers": "GroupedSoftmaxRouter",
        "initialisation": "init_deepnorm_ init_gpt2_ init_small_",
        "interop": "from_torch mask_from_torch",
        "latent": "LatentAttention",
        "layouts": "half_to_interleaved interleaved_to_half",
        "long_context": "Llama3Scaling LongRoPE YaRN",
        "masks": "Causal Mask Padding Window",
        "models": "Decoder Encoder",
        "moe": "MixtureOfExperts",
        "multihead": "MultiHeadAttention",
        "norms": "LayerNorm RMSNorm UnitOffsetRMSNorm",
        "parts": "Part part",
        "positions": "RoPE",
        "presets": "preset preset_names",
        "probe": "Probe Recording record",
        "qknorm": "AcrossHeads EachHead",
        "rehearsal": "Rehearsal rehearse",
        "repeated": "RepeatedBlock",
        "routers": "SigmoidRouter SoftmaxRouter",
        "sampling": "MinP RepetitionPenalty Rule Temperature TopK TopP",
        "scaled": "DeepNormBlock LayerScale ReZero ResidualScale",
        "score_cores": "SinkCore SoftcapCore",
        "seq2seq": "EncoderDecoder",
        "sparse_mixer": "SparseMixerRouter",
        "text_encoders": "MaskedHead Pooler TextEncoder",
        "token_types": "TokenTypes",
        "tokenization": "byte_tokenizer train_bpe",
        "wirings": "OutputNormBlock ParallelBlock SandwichBlock TwoNormParallelBlock",
        "scalings": "DynamicNTKScaling LinearScaling NTKScaling Scaling",
    }
    _HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

    def __getattr__(name):
        if name in _HOME:
            value = getattr(import_module(f"tfdoc.{_HOME[name]}"), name)
        elif name in _HOMES:
            value = import_module(f"tfdoc.{name}")
        else:
            raise AttributeError(f"module 'tfdoc' has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__, *_HOMES})
