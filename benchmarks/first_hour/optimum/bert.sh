optimum-cli export onnx --model bert --task text-classification onnx
optimum-cli onnxruntime quantize --onnx_model onnx --avx512_vnni -o out
