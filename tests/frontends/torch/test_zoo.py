"""Models that libraries build by name, with random weights or those of a file: nothing is fetched."""

from pathlib import Path

import pytest
import torch

from planish.driver.model import read_model
from planish.ir.errors import ModelError, UsageError

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what training leaves: a BERT of Hugging Face's, and weights of a ResNet of 10 classes."""
    folder = tmp_path_factory.mktemp("saved")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(**sizes, vocab_size=32, max_position_embeddings=64)
    transformers.BertForSequenceClassification(config).save_pretrained(folder / "bert")
    (folder / "bert" / "tokenizer_config.json").write_text('{"model_max_length": 32}')
    resnet = torchvision.models.resnet18(num_classes=10)
    torch.save({"state_dict": resnet.state_dict()}, folder / "resnet.pt")
    return folder


def test_a_folder_of_hugging_face_is_read_with_the_head_that_it_was_saved_with(saved: Path) -> None:
    graph = read_model("hf:bert", saved)
    assert [str(value.type) for value in graph.inputs] == ["int64[batch, length]"] * 2
    assert {name: value.shape for name, value in graph.outputs.items()} == {"logits": ("batch", 2)}


def test_a_task_chooses_another_head(saved: Path) -> None:
    assert list(read_model("hf:bert{task=feature-extraction}", saved).outputs) == ["last_hidden_state", "pooler_output"]


def test_weights_of_a_file_are_those_of_the_graph(saved: Path) -> None:
    graph = read_model("torchvision:resnet18{checkpoint=resnet.pt,num_classes=10,size=32}", saved)
    assert [value.shape for value in graph.inputs] == [("batch", 3, 32, 32)]
    weights = torch.load(saved / "resnet.pt")["state_dict"]
    assert (graph.constants["fc.weight"].data == weights["fc.weight"].numpy()).all()


def test_a_model_of_timm_takes_its_own_size_of_images(saved: Path) -> None:
    torch.save(timm.create_model("test_resnet", num_classes=10).state_dict(), saved / "timm.pt")
    graph = read_model("timm:test_resnet{checkpoint=timm.pt,num_classes=10}", saved)
    assert [value.shape for value in graph.inputs] == [("batch", 3, 160, 160)]
    assert [value.shape for value in graph.outputs.values()] == [("batch", 10)]


@pytest.mark.parametrize(
    ("reference", "kind", "message"),
    [
        ("hf:brt", UsageError, "no folder of save_pretrained"),
        ("hf:bert{task=text-clasification}", UsageError, "did you mean 'text-classification'"),
        ("hf:bert{task=image-classification}", UsageError, "a bert, has no head for image-classification"),
        ("torchvision:resnt18", UsageError, r"no model 'resnt18'; did you mean 'resnet18'\?"),
        ("timm:test_resnt", UsageError, r"no model 'test_resnt'; did you mean 'test_resnet'\?"),
        ("torchvision:resnet18{checkpoint=nowhere.pt}", UsageError, "there is no checkpoint .*nowhere.pt"),
        ("torchvision:resnet18{checkpoint=resnet.pt}", ModelError, "don't fit the model: size mismatch for fc.weight"),
        ("torchvision:resnet18{pretrained=false,widht=3}", ModelError, "unexpected keyword argument 'widht'"),
    ],
)
def test_what_a_library_has_not_is_told(saved: Path, reference: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        read_model(reference, saved)
