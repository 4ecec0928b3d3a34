"""What holds for images of PyTorch."""

from hfdlc.checks.subject import Subject


def test_a_product_is_right(subject: Subject) -> None:
    """A product of matrices is computed, on more than one thread, and right."""
    script = "import torch; a = torch.arange(9.).reshape(3, 3); print((a @ torch.eye(3) == a).all().item())"
    assert subject.python(script).strip() == "True"


def test_one_torch(subject: Subject) -> None:
    """There is one PyTorch, and it is the one in the virtual environment."""
    script = "import torch; print(torch.__file__)"
    assert subject.python(script).startswith("/opt/venv/")
    found = subject.host.check_output("find / -xdev -name libtorch_cpu.so").split()
    assert len(found) == 1
