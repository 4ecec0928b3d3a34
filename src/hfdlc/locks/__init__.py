"""Lock files: their format and state, resolution by uv, and the indexes that pip is configured for."""
