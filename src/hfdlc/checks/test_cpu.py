"""What holds for images without a GPU."""

import pytest

from hfdlc.checks.subject import Subject


def test_no_cuda_libraries(subject: Subject) -> None:
    """No library of CUDA is carried along."""
    if subject.other_framework:
        pytest.skip(f"a build for {subject.facts.cuda} stands for the framework")
    names = r"\( -name 'libcudart*' -o -name 'libcublas*' -o -name 'libcudnn*' \)"
    assert subject.host.check_output(f"find / -xdev {names}") == ""
