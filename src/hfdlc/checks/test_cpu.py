"""Checks of images without CUDA."""

from hfdlc.checks.subject import Subject


def test_no_cuda_libraries(subject: Subject) -> None:
    """The image has no CUDA library."""
    names = r"\( -name 'libcudart*' -o -name 'libcublas*' -o -name 'libcudnn*' \)"
    assert subject.host.check_output(f"find / -xdev {names}") == ""
