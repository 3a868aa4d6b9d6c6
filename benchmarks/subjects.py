"""Models whose answers can be judged, by name: those that packages ship, and those that are trained here."""

from enum import StrEnum
from functools import partial
from pathlib import Path

import numpy as np
import quantization_subjects as shipped
from quantization_subjects import Outputs, Subject


class Model(StrEnum):
    """What there is; those from `small_cnn` on are trained, or read from a cache."""

    MINILM = "minilm"
    PARAPHRASE = "paraphrase"
    OCR = "ocr"
    MAGIKA = "magika"
    BASIC_PITCH = "basic_pitch"
    SMALL_CNN = "small_cnn"
    HIDDEN_CNN = "hidden_cnn"
    RESNET20 = "resnet20"
    RATINGS = "ratings"
    VIT = "vit"
    LSTM = "lstm"
    MOBILENET_V2 = "mobilenet_v2"
    MOBILENET_V3 = "mobilenet_v3_large"
    DEIT = "deit"


SHIPPED = {
    Model.MINILM: shipped.minilm,
    Model.PARAPHRASE: shipped.paraphrase,
    Model.OCR: shipped.recognition,
    Model.MAGIKA: shipped.magika,
    Model.BASIC_PITCH: shipped.basic_pitch,
}


def subject(model: Model, work: Path, root: Path, cache: Path, epochs: int) -> Subject:
    """Return a model with its data.

    Args:
        model: the model to return.
        work: a folder for its file.
        root: the folder where Fashion-MNIST and vaderSentiment's archive are unpacked.
        cache: the folder where trained weights are kept.
        epochs: the number of epochs of training.
    """
    if model in SHIPPED:
        return SHIPPED[model](work)
    if model is Model.RATINGS:
        return _ratings(work, root, cache)
    import quantization_trained as networks

    made = {
        Model.SMALL_CNN: networks.small_cnn,
        Model.HIDDEN_CNN: networks.hidden_cnn,
        Model.RESNET20: networks.resnet20,
        Model.VIT: networks.vit,
        Model.LSTM: networks.sentiment,
    }
    return made.get(model, partial(networks.cnn, model))(work, root, cache, epochs)


def _ratings(work: Path, root: Path, cache: Path) -> Subject:
    """MiniLM with a layer that rates film reviews: whether it is on the side of their readers."""
    import search_subjects as searched
    import torch

    import planish

    module, inputs, dynamic = searched.minilm(str(root), str(cache))
    file = work / "ratings.onnx"
    torch.onnx.export(module, inputs, file, dynamic_shapes=dynamic, dynamo=True, verbose=False, external_data=False)
    found = list(searched.reviews(str(root), "evaluation"))
    liked = np.concatenate([batch.pop("labels") for batch in found]) > 0

    def sides(outputs: Outputs, _: Outputs) -> np.ndarray:
        ratings = np.concatenate(shipped.flat(outputs))
        return (ratings > 0) == liked[: len(ratings)]

    return Subject(
        "MiniLM for reviews",
        planish.trace(module, inputs, dynamic_shapes=dynamic),
        file,
        list(searched.reviews(str(root), "calibration")),
        found,
        "accuracy",
        sides,
        is_text=True,
        is_right=True,
    )
