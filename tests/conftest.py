"""What all tests share."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--refresh` writes golden files anew."""
    parser.addoption("--refresh", action="store_true", help="write golden files anew")
