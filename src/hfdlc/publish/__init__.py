"""Publishing: checked images to registries by digest, each with its proofs, so that it can be repeated."""
