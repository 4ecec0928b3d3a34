"""The supported combinations: parsed, validated, enumerated and selected. Pure functions."""
