"""What a transformer costs, counted exactly and without torch."""

from tfdoc.cost.entries import Entry
from tfdoc.cost.estimates import Estimate, estimate
from tfdoc.cost.gpus import Accelerator, accelerator
from tfdoc.cost.parameters import count_params, estimate_params
from tfdoc.cost.sums import Ledger, ledger

__all__ = [
    "Accelerator",
    "Entry",
    "Estimate",
    "Ledger",
    "accelerator",
    "count_params",
    "estimate",
    "estimate_params",
    "ledger",
]
