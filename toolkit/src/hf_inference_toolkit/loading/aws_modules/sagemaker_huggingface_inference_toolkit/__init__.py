"""The parts of AWS's toolkit for Hugging Face that inference scripts import.

See docs/moving_from_aws_images.md.
"""
