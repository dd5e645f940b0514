"""DRAW: a recurrent variational autoencoder that reads and writes an image by glimpses."""
