"""What each layer costs: MACs, bytes, bits, and the roofline."""
