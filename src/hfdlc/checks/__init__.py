"""Checks: each holds a built image against its cell, in one point.

`test_all` runs on every image; the other modules on those of one framework, type or device.
"""
