"""Every formula of the ledger, once: small functions of whole numbers.

They hold no loops and no branches, and use ``+ - * //``, ``min`` and ``max`` alone. So
they count when they are given integers, and can be written out as formulas when they are
given symbols: the site prints them that way and turns them into the JavaScript of its
calculator.
"""

from __future__ import annotations


def linear(inputs: int, outputs: int, biases: int) -> int:
    """Return the parameters of a linear map, with no bias an output or one."""
    return (inputs + biases) * outputs


def shares(whole: int, part: int) -> int:
    """Return how many parts there are; the last may be smaller."""
    return -(-whole // part)


def active(total: int, experts: int, number: int, chosen: int) -> int:
    """Return the parameters that one token passes through, of a mixture's experts a few."""
    return total - experts // number * (number - chosen)


def plain_bytes(numbers: int, width: int) -> int:
    """Return the bytes of weights that are not quantised."""
    return numbers * width


def int8_bytes(numbers: int, inputs: int) -> int:
    """Return the bytes of a matrix in int8: one a weight, and a scale of 4 an output."""
    return numbers + 4 * (numbers // inputs)


def nf4_bytes(numbers: int) -> int:
    """Return the bytes of a matrix in NF4 with double quantisation.

    Half a byte a weight; a scale of one byte for 64 weights, and one of four bytes for 256
    of those.
    """
    return (
        shares(numbers, 2) + shares(numbers, 64) + 4 * shares(shares(numbers, 64), 256)
    )


def adapter(rank: int, inputs: int, outputs: int) -> int:
    """Return the parameters of a LoRA adapter: two thin matrices."""
    return rank * (inputs + outputs)


def window_kept(tokens: int, window: int) -> int:
    """Return the tokens whose keys a sliding layer keeps: what the next token will see."""
    return min(tokens, max(window - 1, 0))


def cached_numbers(
    each: int, layers: int, windows: int, tokens: int, kept: int, source: int
) -> int:
    """Return the numbers that one sequence leaves in the caches of a stack of layers.

    `each` for a token in a layer; layers with a window keep less; a decoder's layers also
    keep what they made of the source.
    """
    return each * ((layers - windows) * tokens + windows * kept + layers * source)


def cache_bytes(batch: int, numbers: int, width: int) -> int:
    """Return the bytes of the key and value caches."""
    return batch * numbers * width


def linear_products(
    tokens: int, chosen: int, inputs: int, outputs: int, runs: int
) -> int:
    """Return the multiply-adds of a linear map in all the layers that have it.

    Of a mixture's experts each token takes the chosen ones.
    """
    return tokens * chosen * inputs * outputs * runs


def attention_products(
    layers: int, heads: int, dot: int, mix: int, queries: int, keys: int
) -> int:
    """Return the multiply-adds of the scores and mixtures of one sequence."""
    return layers * heads * (dot + mix) * queries * keys


def operations(linear: int, batch: int, attention: int) -> int:
    """Return the floating point operations of a forward pass, two a multiply-add."""
    return 2 * (linear + batch * attention)


def weight_bytes(stored: int, adapters: int, width: int) -> int:
    """Return the bytes of the weights as they are stored, and of adapters in full width."""
    return stored + adapters * width


def gradient_bytes(trainable: int, width: int) -> int:
    """Return the bytes of all gradients: one for each trained weight, in its dtype."""
    return trainable * width


def adamw_bytes(trainable: int, width: int) -> int:
    """Return the bytes of AdamW's state: two moments for each trained weight."""
    return 2 * trainable * width


def adamw8bit_bytes(numbers: int) -> int:
    """Return the bytes of the state of one weight in 8-bit AdamW.

    Two bytes a number and two scales of four for each 256; weights of less than 4096
    numbers keep two moments in fp32.
    """
    large = min(1, numbers // 4096)
    return large * (2 * numbers + 8 * shares(numbers, 256)) + (1 - large) * 8 * numbers


def logits_bytes(rows: int, vocabulary: int, width: int) -> int:
    """Return the bytes of the logits."""
    return rows * vocabulary * width


def accumulated(held: int, gradients: int, largest: int) -> int:
    """Return the bytes of gradients while others are there from the steps before.

    All of those, and the new one that is about to be added: at most the largest.
    """
    return gradients + min(held, largest)


def cache_in(nbytes: int, width: int, natural: int) -> int:
    """Return the bytes of a cache in another dtype than the one it is computed in."""
    return nbytes * width // natural


def allocated(
    weights: int, optimizer: int, activations: int, gradients: int, logits: int,
    temporaries: int, kv_cache: int,
) -> int:  # fmt: skip
    """Return what is allocated at a moment."""
    return (
        weights + optimizer + activations + gradients + logits + temporaries + kv_cache
    )


def backward_operations(linear: int, attention: int, fused: int) -> int:
    """Return the floating point operations of a backward pass that trains everything.

    Two products for each of the forward pass; fused attention also computes its scores a
    second time. `linear` and `attention` are multiply-adds.
    """
    return 4 * linear + (4 + fused) * attention


def adapted_operations(linear: int, attention: int, fused: int, adapters: int) -> int:
    """Return the operations of a backward pass that trains adapters.

    The frozen maps pass the gradient on; the adapters, of so many multiply-adds, also get
    theirs.
    """
    return 2 * linear + (4 + fused) * attention + 4 * adapters


def step_operations(micro: int, forward: int, backward: int, again: int) -> int:
    """Return the operations of a training step of so many micro-batches.

    `again` is what checkpointing runs a second time.
    """
    return micro * (forward + backward + again)
