"""Options of classification (`--optform=Classify`)."""
