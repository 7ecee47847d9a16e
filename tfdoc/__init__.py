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
    from tfdoc.biases import ALiBi, Bias, RelativeBias
    from tfdoc.blocks import (
        PostNormBlock,
        PreNormBlock,
        TransformerBlock,
        TransformerLayer,
    )
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
    from tfdoc.feedforward import FeedForward, GatedFeedForward
    from tfdoc.interop import from_torch, mask_from_torch
    from tfdoc.layouts import half_to_interleaved, interleaved_to_half
    from tfdoc.long_context import Llama3Scaling, LongRoPE, YaRN
    from tfdoc.masks import Causal, Mask, Padding, Window
    from tfdoc.models import Encoder
    from tfdoc.multihead import MultiHeadAttention
    from tfdoc.norms import LayerNorm, RMSNorm
    from tfdoc.parts import Part, part
    from tfdoc.positions import RoPE
    from tfdoc.presets import preset, preset_names
    from tfdoc.probe import Probe, Recording, record
    from tfdoc.rehearsal import Rehearsal, rehearse
    from tfdoc.scalings import (
        DynamicNTKScaling,
        LinearScaling,
        NTKScaling,
        Scaling,
    )

__all__ = [
    "ALiBi",
    "Accelerator",
    "Bias",
    "Causal",
    "DotProductCore",
    "DynamicNTKScaling",
    "Encoder",
    "Entry",
    "Estimate",
    "FeedForward",
    "GatedFeedForward",
    "LayerNorm",
    "LearnedPositions",
    "Ledger",
    "LinearScaling",
    "Llama3Scaling",
    "LongRoPE",
    "Mask",
    "MultiHeadAttention",
    "NTKScaling",
    "Padding",
    "Part",
    "PostNormBlock",
    "PreNormBlock",
    "Probe",
    "RMSNorm",
    "Recording",
    "Rehearsal",
    "RelativeBias",
    "RoPE",
    "Scaling",
    "Sinusoidal",
    "TransformerBlock",
    "TransformerLayer",
    "Window",
    "YaRN",
    "accelerator",
    "attention",
    "count_params",
    "estimate",
    "estimate_params",
    "from_torch",
    "fused_attention",
    "half_to_interleaved",
    "interleaved_to_half",
    "ledger",
    "mask_from_torch",
    "part",
    "preset",
    "preset_names",
    "record",
    "rehearse",
]

if not TYPE_CHECKING:
    # No module shares its name with a public object, or the first import of the
    # module would hide the object.
    _HOMES = {
        "absolute": "LearnedPositions Sinusoidal",
        "biases": "ALiBi Bias RelativeBias",
        "blocks": "PostNormBlock PreNormBlock TransformerBlock TransformerLayer",
        "cores": "DotProductCore attention fused_attention",
        "cost": (
            "Accelerator Entry Estimate Ledger accelerator count_params estimate "
            "estimate_params ledger"
        ),
        "feedforward": "FeedForward GatedFeedForward",
        "interop": "from_torch mask_from_torch",
        "layouts": "half_to_interleaved interleaved_to_half",
        "long_context": "Llama3Scaling LongRoPE YaRN",
        "masks": "Causal Mask Padding Window",
        "models": "Encoder",
        "multihead": "MultiHeadAttention",
        "norms": "LayerNorm RMSNorm",
        "parts": "Part part",
        "positions": "RoPE",
        "presets": "preset preset_names",
        "probe": "Probe Recording record",
        "rehearsal": "Rehearsal rehearse",
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
