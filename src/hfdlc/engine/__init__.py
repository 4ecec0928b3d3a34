"""The Docker engine: which one answers, a private one, and containers and images on it."""
