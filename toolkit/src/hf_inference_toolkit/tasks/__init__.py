"""The tasks: the inputs of each, and how it turns the outputs of a model into an answer."""
