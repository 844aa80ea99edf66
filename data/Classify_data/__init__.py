"""Data of classification (`--optform=Classify`): labelled images in, normalised minibatches out."""
