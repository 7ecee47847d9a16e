"""What a transformer costs, counted exactly and without torch."""

from tfdoc.cost.entries import Entry
from tfdoc.cost.estimates import Estimate, estimate
from tfdoc.cost.parameters import count_params, estimate_params
from tfdoc.cost.sums import Ledger, ledger

__all__ = [
    "Entry",
    "Estimate",
    "Ledger",
    "count_params",
    "estimate",
    "estimate_params",
    "ledger",
]
