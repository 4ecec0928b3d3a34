"""Publishing checked images to registries, with signature and attestations."""
