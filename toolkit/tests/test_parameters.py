"""Parameters of requests."""

import pytest

from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.tasks.parameters import SCHEMAS, Parameter, check


@pytest.mark.parametrize("kind", list(SCHEMAS))
def test_null_is_the_same_as_not_given(kind):
    """Clients write null for what they do not set; where null is a value of its own, it stays."""
    known = [Parameter("plain", kind, ""), Parameter("nullable", kind, "", is_nullable=True)]
    assert check({"plain": None}, known) == {}
    assert check({"nullable": None}, known) == {"nullable": None}
    with pytest.raises(RequestError, match="unknown parameter 'plan'"):
        check({"plan": None}, known)
