"""Properties (VNNLIB) and exports (ONNX) in the formats of the neural network verification competition (VNN-COMP)."""
