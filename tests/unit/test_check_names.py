"""The list of checks, each of which needs an image that it rejects."""

from pathlib import Path

from check_names import checks_in


def test_check_in_a_new_module_is_found(tmp_path: Path) -> None:
    """Without an entry in a list of modules; helpers and other modules are no checks."""
    (tmp_path / "test_media.py").write_text("def test_sound(subject): ...\ndef _helper(): ...\n")
    (tmp_path / "test_training.py").write_text("def test_script(subject): ...\n")
    (tmp_path / "runner.py").write_text("def test_nothing(): ...\n")
    assert checks_in(tmp_path) == {"sound", "script"}
    assert checks_in(tmp_path, without=["test_training"]) == {"sound"}
