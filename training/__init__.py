"""Training and evaluation of the BNNeck model: images and identities in, a checkpoint out."""
