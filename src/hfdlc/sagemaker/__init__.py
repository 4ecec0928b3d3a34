"""The training and hosting contracts of SageMaker, run locally."""
