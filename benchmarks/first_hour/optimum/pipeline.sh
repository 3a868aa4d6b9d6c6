mkdir onnx && cp pipeline.onnx onnx
optimum-cli onnxruntime quantize --onnx_model onnx --avx512_vnni -o out
