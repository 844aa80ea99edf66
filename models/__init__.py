"""The networks of the applications and the one training loop they share."""
