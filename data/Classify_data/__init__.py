"""Data of classification (`--optform=Classify`): labelled pictures in, normalised minibatches out."""
