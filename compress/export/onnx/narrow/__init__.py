"""ONNX files in formats narrower than float32 and int8."""
