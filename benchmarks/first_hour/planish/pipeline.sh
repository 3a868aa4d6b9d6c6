planish quantize pipeline.onnx -d table.npz -b onnxruntime -o out
