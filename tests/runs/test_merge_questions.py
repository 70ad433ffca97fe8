"""Questions about a merge in memory, as the worker answers them: JSON in and out."""

import json
from typing import Any

import pytest

from nmerge_core.errors import InputError
from nmerge_core.runs.short_questions import QUESTIONS
from tests.tiny_family import make_family

TEXT = "def f(x):\n    return x"


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


def recipe(family, scale: float, **more: Any) -> dict[str, Any]:
    models = [{"model": family.math}, {"model": family.code}]
    return {"merge_method": "task_arithmetic", "base_model": family.base, "models": models} | {
        "parameters": {"lambda": scale, **more}
    }


def ask(question: str, **arguments: Any) -> Any:
    return json.loads(json.dumps(QUESTIONS[question](**json.loads(json.dumps(arguments)))))


def test_a_merge_that_is_one_of_its_models_departs_from_that_one_nowhere(family) -> None:
    """λ · (1 · τ_math + 0 · τ_code) is math itself; of no change at all it is the base."""
    asked: dict[str, Any] = {"models": [family.base, family.math], "text": TEXT, "max_length": 64}
    math = recipe(family, 1.0)
    math["models"] = [
        {"model": family.math, "parameters": {"weight": 1.0}},
        {"model": family.code, "parameters": {"weight": 0.0}},
    ]
    for content, same in ((recipe(family, 0.0), 0), (math, 1)):
        found = ask("divergence", recipe=content, **asked)
        assert "".join(found["tokens"]) == TEXT
        values = [max(model["values"]) for model in found["models"]]
        assert values[same] < 1e-6 < 1e-5 < values[1 - same]
        moved = ask(
            "moved_neurons", recipe=content, model=asked["models"][same], text=TEXT, token=5, neurons=2, max_length=64
        )
        assert len(moved) == 4 and max(abs(each["merge"] - each["model"]) for each in moved) < 1e-5
        after = ask("next_tokens", recipe=content, token=5, likeliest=3, **asked)
        for each in after:
            assert each["probabilities"][0] == pytest.approx(each["probabilities"][1 + same], rel=1e-3)


def test_health_follows_the_recipe(family) -> None:
    for scale in (0.5, 2.0):
        found = ask("changes", recipe=recipe(family, scale), base=family.base)
        kept = [row["kept"] for row in found["models"]]
        assert len(found["layers"]) == 4 and min(kept) > 0.8 * scale and max(kept) < 3 * scale
    texts = ["two words", TEXT]
    alone, merged = (
        ask("spread", model=family.base, texts=texts),
        ask("merged_spread", recipe=recipe(family, 0.0), texts=texts),
    )
    assert [row["layer"] for row in merged] == [0, 1]
    for name in ("rank", "variance"):
        assert [row[name] for row in merged] == pytest.approx([row[name] for row in alone])


def test_a_model_that_cannot_be_compared_says_why_and_the_others_are(family) -> None:
    found = ask("divergence", recipe=recipe(family, 0.5), models=["nowhere", family.math], text=TEXT, max_length=8)
    assert "nowhere" in found["models"][0]["refused"] and len(found["models"][1]["values"]) == len(found["tokens"]) == 8
    with pytest.raises(InputError, match="the text is empty"):
        ask("divergence", recipe=recipe(family, 0.5), models=[family.math], text="", max_length=8)
