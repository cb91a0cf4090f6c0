"""A trained model for other programs: a MONAI Bundle, or an ONNX file. Neither needs medfl. Weights are
read as tensors only, so no file of weights can run code."""
