"""What methods share that only see calibration data: samples, a layer's inputs and outputs, BatchNorm statistics."""
