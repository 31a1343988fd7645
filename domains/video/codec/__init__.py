"""Latent codecs of frames: a VQ autoencoder, its training, and the frozen codec that other methods use."""
