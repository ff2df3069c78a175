"""Exports a fine-tuned model to a folder that ONNX Runtime runs, in fp32 or int8."""
