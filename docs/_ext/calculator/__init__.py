"""The calculator: its script made of Python formulas and tables, and its page."""
