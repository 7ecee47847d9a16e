"""Published models put together of parts from their configs, and their weights."""

from tests.families.recipes import RECIPES
from tests.families.seq2seq import SEQ2SEQ, seq2seq_weights
from tests.families.weights import adopted

__all__ = ["RECIPES", "SEQ2SEQ", "adopted", "seq2seq_weights"]
