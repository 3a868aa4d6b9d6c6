# tried: olive quantize -m bert --implementation ort: ValueError: precision int8, algorithm rtn, implementation ort with QDQ False is not supported
# tried: olive optimize -m bert --precision int8: ModuleNotFoundError: No module named 'onnxruntime_genai'
olive auto-opt -m bert --task text-classification --precision int8 -o out
