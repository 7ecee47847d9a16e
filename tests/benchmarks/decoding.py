"""Greedy generation by the same language models."""

from __future__ import annotations

import torch

from .cases import Case, Run, case, impl
from .language import BUILD, GPTS, LLAMAS


class Gen(Case):
    """Greedy tokens behind a prompt of 64."""

    fam, modes = "gpt2", ("gen",)

    def make(self, p, g):
        return dict(ids=torch.randint(0, p.V, (p.b, 64), generator=g))

    def ref(self, t, p):
        model, *_ = BUILD[self.fam](p, "hf64")
        return _hf_generate(model, t, p)()[:, -p.new :].double()


def _sizes(shapes, new):
    return {
        f"{size}-b{b}": {**shape, "b": b, "new": new[size]}
        for size, shape in shapes.items()
        for b in (1, 8)
    }


_gpt2, _llama = _sizes(GPTS, dict(s=128, m=16)), _sizes(LLAMAS, dict(s=128, m=128))
case("gen/gpt2", type("Gen_gpt2", (Gen,), dict(sizes=_gpt2)))
case("gen/llama", type("Gen_llama", (Gen,), dict(fam="llama", sizes=_llama)))


def _hf_generate(m, t, p, **settings):
    mask = torch.ones_like(t.ids)
    settings.update(max_new_tokens=p.new, do_sample=False, pad_token_id=0)
    return lambda: m.generate(t.ids, attention_mask=mask, **settings)


def _hf_static(m, t, p):
    static = dict(cache_implementation="static", disable_compile=True)
    return _hf_generate(m, t, p, **static)


def _hf_loop(m, t, p):
    from transformers import DynamicCache

    def loop():
        cache, x, out = DynamicCache(config=m.config), t.ids, [t.ids]
        for _ in range(p.new):
            logits = m(
                x, past_key_values=cache, use_cache=True, logits_to_keep=1
            ).logits
            x = logits[:, -1:].argmax(-1)
            out.append(x)
        return torch.cat(out, 1)

    return loop


def _torchtune(m, t, p):
    from torchtune.generation import generate

    length = 64 + p.new
    m.setup_caches(batch_size=p.b, dtype=torch.float32, decoder_max_seq_len=length)
    settings = dict(max_generated_tokens=p.new, temperature=1.0, top_k=1)

    def run():
        m.reset_caches()
        return generate(m, t.ids, **settings)[0]

    return run


def _xt(m, t, p):
    from x_transformers import AutoregressiveWrapper

    wrapped = AutoregressiveWrapper(m)
    return lambda: wrapped.generate(t.ids, p.new, temperature=0.0, cache_kv=True)


def _gen(fam, kind, label, prepare):
    @impl(f"gen/{fam}", label)
    def _(t, p):
        model, *_ = BUILD[fam](p, kind)
        generate = torch.inference_mode()(prepare(model, t, p))
        return Run(generate, post=lambda o: o[:, -p.new :].double())


for _fam, _n in (("gpt2", "GPT2"), ("llama", "Llama")):
    _gen(_fam, "hf", f"HF {_n} generate (dynamic cache)", _hf_generate)
    _gen(_fam, "hf", f"HF {_n} generate (static cache, eager)", _hf_static)
    _gen(_fam, "hf", f"HF {_n} hand loop, DynamicCache", _hf_loop)
    _gen(_fam, "xt", "x-transformers generate (KV cache)", _xt)
_gen("llama", "torchtune", "torchtune generate (KV cache)", _torchtune)
