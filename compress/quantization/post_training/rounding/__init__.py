"""Ways to round the weights of a trained network: learned up or down, or with errors made good."""
