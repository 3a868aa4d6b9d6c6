# tried: without the package datasets, a list of dicts: AttributeError: 'list' object has no attribute 'info'
# tried: pip install datasets: ImportError: huggingface-hub>=0.34.0,<1.0 is required
mkdir onnx && cp resnet18.onnx onnx
python resnet18.py
