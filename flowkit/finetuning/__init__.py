"""Fitting a trained model to data of the user's own: adapters, the output layer alone, or everything."""
