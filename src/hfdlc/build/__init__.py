"""From a build plan to images."""
