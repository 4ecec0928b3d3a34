"""Committed files that are derived from the matrix."""
