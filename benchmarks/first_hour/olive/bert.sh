# tried: olive quantize -m bert --implementation ort: Quantization for precision int8, algorithm rtn and implementation ort is not supported
# tried: olive optimize -m bert --precision int8: ModuleNotFoundError: No module named 'onnxruntime_genai'
olive capture-onnx-graph -m bert --task text-classification -o onnx
olive quantize -m onnx/model.onnx --implementation ort -o int8
