"""What holds for images of TensorFlow."""

import pytest
from packaging.version import Version

from hfdlc.checks.subject import Subject


def test_a_product_is_right(subject: Subject) -> None:
    """A product of matrices is computed, and right."""
    script = """
import tensorflow as tf
a = tf.reshape(tf.range(9.0), (3, 3))
print(bool(tf.reduce_all(a @ tf.eye(3) == a)))
"""
    assert subject.python(script).strip() == "True"


def test_one_tensorflow(subject: Subject) -> None:
    """There is one TensorFlow, and it is the one in the virtual environment."""
    script = "import tensorflow; print(tensorflow.__file__)"
    assert subject.python(script).startswith("/opt/venv/")
    found = subject.host.check_output("find / -xdev -name 'libtensorflow_framework.so*'").split()
    assert len(found) == 1


def test_keras_of_transformers(subject: Subject) -> None:
    """The Keras that transformers' models are made of is TensorFlow's own of before Keras 3."""
    if Version(subject.cell.framework_version) < Version("2.16"):
        pytest.skip("TensorFlow's own Keras is the only one there")
    script = "from transformers.modeling_tf_utils import keras; print(keras.__version__)"
    assert subject.python(script).startswith("2.")
