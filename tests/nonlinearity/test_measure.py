from typing import Any

import numpy as np
import pytest
from transformers import Qwen2Config
from transformers.models.falcon_h1 import FalconH1Config

from nmerge_core.activations.store import open_classification
from nmerge_core.classification.classification import classify
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.nonlinearity import measure
from tests.nonlinearity.conftest import fine_tune
from tests.nonlinearity.reference import non_linearity
from tests.tiny import D_FFN, TEXTS, tiny_model, write_corpus

EVERY_TEXT = [text for texts in TEXTS.values() for text in texts]


def values(frame, **where):
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame["value"].to_numpy()


def test_equals_whole_models_and_plain_loops(family, corpus, tmp_path):
    base, models = family
    neurons = tmp_path / "neurons"
    classify(base, corpus, neurons, top_k=3)
    found = measure(base, models, corpus, neurons=str(neurons), alphas=(0.3, 0.8))
    assert list(found.columns) == ["model", "layer", "submodule", "group", "alpha", "value"]
    table = open_classification(neurons).neurons()
    groups = {key: rows["neuron"].tolist() for key, rows in table.groupby(["layer", "category"])}
    assert sum(map(len, groups.values())) == 2 * D_FFN
    for model, label, alpha in zip(models, ("math", "code"), (0.3, 0.8), strict=True):
        expected = non_linearity(base, model, EVERY_TEXT, alpha, groups)
        rows = found[(found["model"] == label) & (found["alpha"] == alpha)]
        assert len(rows) == len(expected) == 2 * 2 + len(groups)
        for row in rows.itertuples():
            assert row.value == pytest.approx(expected[row.layer, row.group or row.submodule], rel=1e-3)


def test_a_change_of_down_alone_is_linear(qwen2, corpus, tmp_path):
    """f is linear in down: f(θ0 + ατ) = f(θ0) + αΔf exactly; attention does not change, and has no value."""
    model = fine_tune(qwen2, tmp_path / "down", seed=1, only="down_proj", scale=0.5)
    found = measure(qwen2, [model], corpus)
    assert len(found) == 2 * 2 * 9
    assert values(found, submodule="mlp").max() < 1e-5
    assert np.isnan(values(found, submodule="attention")).all()


def test_a_norm_counts_for_the_submodule_that_reads_it_and_for_no_group(qwen2, corpus, tmp_path):
    model = fine_tune(qwen2, tmp_path / "norm", seed=1, only="post_attention_layernorm", scale=0.5)
    neurons = tmp_path / "neurons"
    classify(qwen2, corpus, neurons, top_k=3)
    found = measure(qwen2, [model], corpus, neurons=str(neurons), alphas=(0.5,))
    assert (values(found, submodule="mlp") > 0.01).all()
    assert np.isnan(values(found, submodule="attention")).all()
    assert np.isnan(values(found, submodule="group")).all()


def test_samples_and_max_length_are_what_is_read(qwen2, tmp_path):
    """Texts that differ only beyond max_length, and one sample of several equal ones, give the same figures."""
    model = fine_tune(qwen2, tmp_path / "model", seed=1)
    short = write_corpus(tmp_path / "short", {"general": ["abcdefgh"], "math": ["12345678"]})
    long = write_corpus(tmp_path / "long", {"general": ["abcdefgh then more"] * 3, "math": ["12345678 and so on"] * 3})
    one = measure(qwen2, [model], short, alphas=(0.5,))
    other = measure(qwen2, [model], long, alphas=(0.5,), samples=1, max_length=8)
    np.testing.assert_array_equal(one["value"], other["value"])


def test_the_seed_alone_decides_the_draw(qwen2, corpus, tmp_path):
    model = fine_tune(qwen2, tmp_path / "model", seed=1)
    first, again, other = (
        measure(qwen2, [model], corpus, alphas=(0.5,), samples=2, seed=seed)["value"].to_numpy() for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_wrong_input_is_named(qwen2, corpus, tmp_path):
    wide = tiny_model(tmp_path / "wide", config=lambda **given: Qwen2Config(**(given | {"intermediate_size": 64})))
    with pytest.raises(InputError, match=r"wide.*mlp\.down_proj\.weight: expected shape \[32, 48\].*found \[32, 64\]"):
        measure(qwen2, [wide], corpus)
    classify(wide, corpus, tmp_path / "neurons", top_k=3)
    with pytest.raises(InputError, match="expected a classification of .*, with 48 neurons in layer 0, found 64 there"):
        measure(qwen2, [qwen2], corpus, neurons=str(tmp_path / "neurons"))
    with pytest.raises(InputError, match="device 'gpu'"):
        measure(qwen2, [qwen2], corpus, device="gpu")
    wrong: list[dict[str, Any]] = [{"samples": 0}, {"samples": -1}, {"max_length": 0}, {"seed": -1}]
    for given in wrong:
        ((name, value),) = given.items()
        with pytest.raises(InputError, match=f"{name}: expected a whole number from ., found {value}"):
            measure(qwen2, [qwen2], corpus, **given)


def test_layers_of_another_form_are_refused(corpus, tmp_path):
    model = tiny_model(tmp_path / "model", config=FalconH1Config)
    with pytest.raises(
        InputError,
        match="expected decoder layers of .*found feed_forward, mamba, self_attn, input_layernorm, pre_ff_layernorm",
    ):
        measure(model, [model], corpus)


def test_progress_is_told_and_can_cancel(qwen2, corpus, tmp_path):
    model = fine_tune(qwen2, tmp_path / "model", seed=1)
    told = []

    def tell(stage, done, total, unit=""):
        told.append((done, total))

    measure(qwen2, [model], corpus, alphas=(0.5,), progress=tell)
    assert told[0] == (0, 6) and told[-1] == (6, 6) and told == sorted(told)  # 2 layers, a batch per category

    def cancel(stage, done, total, unit=""):
        if done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        measure(qwen2, [model], corpus, alphas=(0.5,), progress=cancel)
