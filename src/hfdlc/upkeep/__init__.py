"""Maintenance of this machine: what it lacks, and what can be removed."""
