"""Models whose answers can be judged, by name: those that packages ship, and those that are trained here."""

from enum import StrEnum
from functools import partial
from pathlib import Path

import numpy as np
import quantization_subjects as shipped
from quantization_subjects import Outputs, Subject


class Model(StrEnum):
    """What there is; those from `small_cnn` to `deit` are trained, or read from a cache."""

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
    SMOLLM2 = "smollm2"


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
        root: the folder where Fashion-MNIST, vaderSentiment's archive and SmolLM2's texts are unpacked.
        cache: the folder where trained weights are kept, and SmolLM2 in float.
        epochs: the number of epochs of training.
    """
    if model in SHIPPED:
        return SHIPPED[model](work)
    if model is Model.RATINGS:
        return _ratings(work, root, cache)
    if model is Model.SMOLLM2:
        return _smollm2(root, cache)
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


def _smollm2(root: Path, cache: Path) -> Subject:
    """SmolLM2-135M: whether it takes the next token of a text for the likeliest."""
    import quantization_language as language

    import planish

    place = language.prepare(cache / "smollm2", root, 24)
    graph, windows = planish.read(place.graph), place.windows()
    name = graph.inputs[0].name

    def right(outputs: Outputs, _: Outputs) -> np.ndarray:
        found = zip(shipped.flat(outputs), windows, strict=False)
        return np.array([(logits[0, :-1].argmax(-1) == ids[1:]).mean() for logits, ids in found])

    return Subject(
        "SmolLM2-135M",
        graph,
        place.onnx,
        [{name: ids[None]} for ids in place.calibration(0, 128)],
        [{name: ids[None]} for ids in windows],
        "next tokens",
        right,
        {"agreement, %": shipped.agreement},
        is_text=True,
    )
