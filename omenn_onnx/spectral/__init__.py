"""The full linear map of an instance and its spectrum: operators, singular triplets, contributions."""
