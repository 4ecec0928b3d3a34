"""Checks of llguidance, for images with the layer group `grammar`."""

from hfdlc.checks.subject import Subject

SCRIPT = """
import llguidance
text = llguidance.LLMatcher.grammar_from_json_schema('{"type": "object", "required": ["a"]}')
error, messages = llguidance.LLMatcher.validate_grammar_with_warnings(text)
print(error)
"""


def test_grammar_compiles_a_schema(subject: Subject) -> None:
    """Answers with `response_format` need it."""
    assert subject.python(SCRIPT).strip() == "False"
