import numpy as np
import pytest
import torch

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.corpus.text_samples import BATCH_TOKENS, draw, pack
from nmerge_core.errors import InputError
from nmerge_core.nonlinearity import solve
from nmerge_core.nonlinearity.solve import coefficients
from tests.nonlinearity.conftest import fine_tune
from tests.nonlinearity.reference import objective, objective_together
from tests.tiny import TEXTS

GROUPS = {0: {"general": np.arange(5), "math": np.array([7, 30])}, 1: {"general": np.arange(40, 48)}}


def test_coefficients_of_a_worked_example():
    """One token a task: on D1 Δf = (2, 0), (1, 1); on D2 Δf = (0, 1), (0, 2).

    A = [[4, 2], [2, 2]] + [[1, 2], [2, 4]] = [[5, 4], [4, 6]]; b = (⟨Δ1, Δ1⟩ + ⟨Δ1, Δ2⟩, ⟨Δ2, Δ1⟩ + ⟨Δ2, Δ2⟩)
    = (4 + 2, 2 + 4) = (6, 6); det A = 14; α = ((6·6 − 4·6) / 14, (5·6 − 4·6) / 14) = (6/7, 3/7).
    """
    alpha, warning = coefficients(np.array([[[4.0, 2.0], [2.0, 2.0]], [[1.0, 2.0], [2.0, 4.0]]]))
    np.testing.assert_allclose(alpha, [6 / 7, 3 / 7], rtol=1e-12)
    assert not warning


def test_coefficients_of_two_parts_at_once():
    """One token a task, of one number; Δf of models 1, 2 in part g, then in h: D1 (2, 0 | 0, 1), D2 (0, 1 | 1, 0).

    By itself g gives 2α1 = 2 and α2 = 1, and h, where each task's own model changes nothing, 0 and 0. Together
    2α_g1 + α_h2 = 2 and α_g2 + α_h1 = 1, of least norm α_g1 = 4/5, α_h2 = 2/5 and α_g2 = α_h1 = 1/2.
    """
    changes = np.array([[2.0, 0, 0, 1], [0, 1, 1, 0]])  # (tasks, parts · models)
    grams = changes[:, :, None] * changes[:, None, :]
    alpha, warning = coefficients(grams)
    np.testing.assert_allclose(alpha, [0.8, 0.5, 0.5, 0.4], rtol=1e-9)
    assert "least-norm" in warning
    np.testing.assert_allclose(coefficients(grams[:, :2, :2])[0], [1, 1], rtol=1e-9)
    np.testing.assert_allclose(coefficients(grams[:, 2:, 2:])[0], [0, 0], atol=1e-12)


def test_groups_that_are_solved_together_minimise_what_they_leave_together(qwen2, corpus, tmp_path):
    """The gradient of Σ_t E‖Σ_g (Σ_i α_gi Δf_gi − Δf_gt)‖² vanishes, and no coefficient of the whole MLP moves."""
    models = [fine_tune(qwen2, tmp_path / name, seed=seed) for seed, name in enumerate(("math", "code"))]
    apart, together = (
        solve(qwen2, models, corpus, ["math", "code"], groups=GROUPS, together=each) for each in (False, True)
    )
    each = {(0, name): neurons.tolist() for name, neurons in GROUPS[0].items()}
    alphas = {key: torch.tensor(together.values[key], dtype=torch.float64, requires_grad=True) for key in each}
    loss = objective_together(qwen2, models, [TEXTS["math"], TEXTS["code"]], alphas, each)
    loss.backward()
    assert all(alpha.grad.abs().max() < 1e-4 * loss.item() for alpha in alphas.values())
    assert all(abs(a - b) > 1e-6 for key in each for a, b in zip(apart.values[key], together.values[key], strict=True))
    others = apart.values.keys() - each.keys()  # attention, MLP, and a group that is alone in its layer
    assert all(apart.values[key] == together.values[key] for key in others)


def test_a_model_without_change_gets_nothing_and_the_other_its_own():
    """Δ2 = 0: A = [[4 + 1, 0], [0, 0]], b = (4, 0), so α1 = 4/5."""
    alpha, warning = coefficients(np.array([[[4.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]]))
    np.testing.assert_allclose(alpha, [0.8, 0.0], rtol=1e-12)
    assert not warning
    assert coefficients(np.zeros((2, 2, 2)))[0].tolist() == [0.0, 0.0]


def test_a_small_change_is_not_taken_for_a_dependent_one():
    """Orthogonal changes, one a millionth of the other: b = (1, 1e-12), A = diag(1, 1e-12), α = (1, 1)."""
    alpha, warning = coefficients(np.array([np.diag([1.0, 0.0]), np.diag([0.0, 1e-12])]))
    np.testing.assert_allclose(alpha, [1.0, 1.0], rtol=1e-9)
    assert not warning


def test_minimises_the_objective_of_whole_models(family, corpus):
    """The gradient of Σ_t E‖Σ α Δf − Δf_t‖², from plain loops over whole models, vanishes at α."""
    base, models = family
    solved = solve(base, models, corpus, ["math", "code"], groups=GROUPS)
    assert not solved.warnings
    assert solved.models == ("math", "code")
    whole = {(layer, part) for layer in (0, 1) for part in ("attention", "mlp")}
    whole = {(layer, part) for layer in (0, 1) for part in ("attention", "mlp")}
    each = {(layer, name): neurons.tolist() for layer, groups in GROUPS.items() for name, neurons in groups.items()}
    assert solved.values.keys() == whole | each.keys()
    alphas = {key: torch.tensor(own, dtype=torch.float64, requires_grad=True) for key, own in solved.values.items()}
    losses = objective(base, models, [TEXTS["math"], TEXTS["code"]], alphas, each)
    for key, loss in losses.items():
        loss.backward()
        assert alphas[key].grad.abs().max() < 1e-4 * loss.item(), key


def test_one_model_keeps_its_whole_change(qwen2, corpus, tmp_path):
    """T = 1: A = b = E‖Δf‖², so α = 1."""
    model = fine_tune(qwen2, tmp_path / "math", seed=1)
    solved = solve(qwen2, [model], corpus, ["math"], groups=GROUPS)
    np.testing.assert_allclose(list(solved.values.values()), 1.0, rtol=1e-9)


def test_identical_fine_tunes_share_and_are_warned_of(qwen2, corpus, tmp_path):
    """Δ1 = Δ2: A = (g1 + g2) [[1, 1], [1, 1]], b = (g1 + g2) (1, 1): α1 + α2 = 1, of least norm (1/2, 1/2)."""
    models = [fine_tune(qwen2, tmp_path / name, seed=1) for name in ("math", "code")]
    solved = solve(qwen2, models, corpus, ["math", "code"])
    np.testing.assert_allclose(list(solved.values.values()), 0.5, rtol=1e-6)
    assert len(solved.warnings) == 4
    assert solved.warnings[0].startswith("layer 0, attention: the changes of the fine-tunes are linearly dependent")


def test_frame_has_a_row_per_coefficient(qwen2, corpus, tmp_path):
    models = [fine_tune(qwen2, tmp_path / name, seed=seed) for seed, name in enumerate(("math", "code"))]
    solved = solve(qwen2, models, corpus, ["math", "code"], groups=GROUPS)
    frame = solved.to_frame()
    assert list(frame.columns) == ["model", "layer", "submodule", "group", "coefficient"]
    assert len(frame) == 2 * (4 + 3)
    row = frame[(frame["model"] == "code") & (frame["layer"] == 0) & (frame["group"] == "math")]
    assert row[["submodule", "coefficient"]].values.tolist() == [["group", solved.values[0, "math"][1]]]
    assert set(frame[frame["group"] == ""]["submodule"]) == {"attention", "mlp"}


def test_wrong_input_is_named(qwen2, corpus):
    with pytest.raises(InputError, match="a category for each of the 2 models, found 1"):
        solve(qwen2, [qwen2, qwen2], corpus, ["math"])
    with pytest.raises(InputError, match="no category poetry"):
        solve(qwen2, [qwen2], corpus, ["poetry"])
    with pytest.raises(InputError, match="layer 1: a neuron group cannot be called mlp"):
        solve(qwen2, [qwen2], corpus, ["math"], groups={1: {"mlp": np.arange(2)}})


def test_batches_hold_every_token_within_their_budget():
    lengths = np.random.default_rng(0).integers(0, 600, size=50)
    sequences = [list(range(1, length + 1)) for length in [*lengths, BATCH_TOKENS + 1]]
    batches = pack("math", sequences)
    assert all(batch.tokens.numel() <= BATCH_TOKENS for batch in batches[:-1])
    assert batches[-1].tokens.shape == (1, BATCH_TOKENS + 1)
    rows = [row[real].tolist() for batch in batches for row, real in zip(batch.tokens, batch.real, strict=True)]
    assert sorted(rows, key=len) == sorted(filter(None, sequences), key=len)


def test_a_category_is_drawn_alike_whatever_the_others(qwen2, corpus):
    base = open_checkpoint(qwen2)
    alone, among = (
        [
            batch
            for batch in draw(corpus, categories, base, samples=2, max_length=64, seed=3)
            if batch.category == "code"
        ]
        for categories in (["code"], ["math", "code"])
    )
    assert [batch.tokens.tolist() for batch in alone] == [batch.tokens.tolist() for batch in among]
    assert sum(len(batch.tokens) for batch in alone) == 2
