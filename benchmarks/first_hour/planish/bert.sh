planish quantize hf:bert -b onnxruntime -o int8
