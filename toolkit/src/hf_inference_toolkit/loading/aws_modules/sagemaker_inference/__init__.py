"""The parts of AWS's sagemaker-inference that inference scripts import. See docs/moving_from_aws_images.md."""
