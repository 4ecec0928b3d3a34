"""What holds for images without a GPU."""

from hfdlc.checks.subject import Subject


def test_no_cuda_libraries(subject: Subject) -> None:
    """No library of CUDA is carried along."""
    names = r"\( -name 'libcudart*' -o -name 'libcublas*' -o -name 'libcudnn*' \)"
    assert subject.host.check_output(f"find / -xdev {names}") == ""
