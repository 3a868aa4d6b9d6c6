"""The importer of ONNX."""
