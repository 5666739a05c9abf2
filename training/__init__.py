"""Training of the embedded model: a synthetic world, the autoencoder, the training loop, the evaluation."""
