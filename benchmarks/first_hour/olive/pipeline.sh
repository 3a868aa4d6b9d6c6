# tried: in an environment of pip install olive-ai onnxruntime: ModuleNotFoundError: No module named 'requests'
olive quantize -m pipeline.onnx --implementation ort -o out
