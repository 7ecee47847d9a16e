"""Readable transformer components; the package behind the pages of tfdoc."""
