"""Checks: each compares one property of a built image with its cell.

`test_all` runs on every image; the other modules on those of one framework, type or device.
"""
