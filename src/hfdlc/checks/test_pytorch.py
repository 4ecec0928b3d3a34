"""Checks of images with PyTorch."""

from hfdlc.checks.subject import Subject


def test_a_product_is_right(subject: Subject) -> None:
    """Matrices are multiplied correctly, on more than one thread."""
    script = "import torch; a = torch.arange(9.).reshape(3, 3); print((a @ torch.eye(3) == a).all().item())"
    assert subject.python(script).strip() == "True"


def test_one_torch(subject: Subject) -> None:
    """There is one PyTorch, in the virtual environment."""
    script = "import torch; print(torch.__file__)"
    assert subject.python(script).startswith("/opt/venv/")
    found = subject.host.check_output("find / -xdev -name libtorch_cpu.so").split()
    assert len(found) == 1
