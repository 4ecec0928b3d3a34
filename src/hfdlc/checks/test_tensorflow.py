"""Checks of images with TensorFlow."""

import pytest
from packaging.version import Version

from hfdlc.checks.subject import Subject


def test_a_product_is_right(subject: Subject) -> None:
    """Matrices are multiplied correctly."""
    script = """
import tensorflow as tf
a = tf.reshape(tf.range(9.0), (3, 3))
print(bool(tf.reduce_all(a @ tf.eye(3) == a)))
"""
    assert subject.python(script).strip() == "True"


def test_one_tensorflow(subject: Subject) -> None:
    """There is one TensorFlow, in the virtual environment."""
    script = "import tensorflow; print(tensorflow.__file__)"
    assert subject.python(script).startswith("/opt/venv/")
    found = subject.host.check_output("find / -xdev -name 'libtensorflow_framework.so*'").split()
    assert len(found) == 1


def test_keras_of_transformers(subject: Subject) -> None:
    """Transformers uses Keras 2: TensorFlow's own, or tf-keras."""
    if Version(subject.cell.framework_version) < Version("2.16"):
        pytest.skip("TensorFlow's own Keras is the only one there")
    script = "from transformers.modeling_tf_utils import keras; print(keras.__version__)"
    assert subject.python(script).startswith("2.")
