planish quantize hf:bert -b onnxruntime -o out
