"""What a transformer costs, counted exactly and without torch."""

from tfdoc.cost.parameters import count_params, estimate_params

__all__ = ["count_params", "estimate_params"]
