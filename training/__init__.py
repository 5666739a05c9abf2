"""How the embedded model was made: a synthetic world, its autoencoder, the training loop, the evaluation."""
