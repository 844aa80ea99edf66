"""What is quantized where: what each layer reads, shares and can be fed."""
