"""What a pipeline's training keys make of a site, and what the device does not have."""

import pytest
import torch

from medfl.errors import MedflError
from medfl.methods.core.chain import build_chain
from medfl.pipeline.build_site import check_precision, local_training_config, resolve_precision
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.site.shared_model import SharedModel
from tests.tiny import tiny
from tests.toys import toy_bench

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("stated", "device", "bf16", "taken"),
    [
        ("auto", CPU, True, "float32"),
        ("auto", CUDA, True, "bf16"),
        ("auto", CUDA, False, "float32"),
        ("bf16", CPU, False, "bf16"),
        ("bf16", CUDA, True, "bf16"),
        ("fp16", CUDA, False, "fp16"),
        ("float32", CUDA, True, "float32"),
        ("fp16", CPU, True, "fp16 needs a CUDA GPU, not cpu"),
        ("bf16", CUDA, False, "an old GPU has no bf16; use fp16"),
    ],
)
def test_precision_is_what_the_device_has(monkeypatch, stated, device, bf16, taken):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old GPU")
    if " " in taken:
        with pytest.raises(MedflError, match=taken):
            resolve_precision(stated, device)
    else:
        assert resolve_precision(stated, device) == taken


def test_a_method_that_sees_gradients_is_no_match_for_fp16():
    model = toy_bench().model
    check_precision(SharedModel(model, build_chain(["fedadam"]), precision="fp16"))
    check_precision(SharedModel(model, build_chain(["scaffold"]), precision="bf16"))
    for method in ("scaffold", "fedprox", "fedsam", "pflalign"):
        with pytest.raises(MedflError, match=f"fp16 scales gradients .* and {method} acts on each"):
            check_precision(SharedModel(model, build_chain([method]), precision="fp16"))


def test_class_weights_are_those_of_the_classes_in_order():
    pipeline = load_pipeline(tiny(training={"class_weights": {"colon_n": 3, "lung_aca": 0.5}}))
    work = local_training_config(pipeline, pipeline.train_sites[0])
    assert work.class_weights == (0.5, 1.0, 3.0)
    plain = load_pipeline(tiny())
    assert local_training_config(plain, plain.train_sites[0]).class_weights is None


@pytest.mark.parametrize(
    ("training", "sentence"),
    [
        ({"class_weights": {"colon": 2}}, "`training.class_weights` names colon.*Did you mean"),
        ({"class_weights": {"colon_n": 2}, "weighted_loss": True}, "keep one"),
        ({"class_weights": {"colon_n": 0}}, "greater than 0"),
        ({"loss": "hinge"}, "`loss` is cross_entropy, and not hinge"),
        ({"precision": "fp8"}, "fp16"),
    ],
)
def test_wrong_training_keys_are_said_on_loading(training, sentence):
    with pytest.raises(MedflError, match=sentence):
        load_pipeline(tiny(training=training))
