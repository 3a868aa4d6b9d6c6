import nncf
import openvino
import torch
from transformers import AutoModelForSequenceClassification

module = AutoModelForSequenceClassification.from_pretrained("bert")
example = {name: torch.ones((2, 8), dtype=torch.long) for name in ("input_ids", "attention_mask")}
model = openvino.convert_model(module, example_input=example)
openvino.save_model(nncf.compress_weights(model), "out.xml")
