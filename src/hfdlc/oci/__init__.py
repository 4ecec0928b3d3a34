"""Manifests, layers and registries. Knows neither cells nor Docker."""
