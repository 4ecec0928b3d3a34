"""The exception of AWS's multi-model-server that inference scripts raise. See docs/moving_from_aws_images.md."""
