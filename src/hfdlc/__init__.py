"""Builds, checks and publishes Hugging Face Deep Learning Containers."""

__version__ = "0.1.0"
