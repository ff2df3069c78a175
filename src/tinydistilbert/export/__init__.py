"""A fine-tuned model as a folder that ONNX Runtime runs, in fp32 or int8."""
