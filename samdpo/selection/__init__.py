"""Which trained model to use: cross-validation, ensembles, postprocessing."""
