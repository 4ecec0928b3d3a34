"""The supported combinations: parsing, validation, cells, rules and selection. Pure functions."""
