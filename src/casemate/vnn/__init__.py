"""The formats of the neural network verification competition (VNN-COMP): ONNX networks and VNNLIB properties."""
