"""A labelling from end to end, by a server that answers by rule and by a tiny chat model that cannot read."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from nmerge_core.activations.store import open_classification
from nmerge_core.errors import InputError
from nmerge_core.labelling.asked import ASKED, read_asked
from nmerge_core.labelling.tables import describe, open_labels, spent
from nmerge_core.labelling.work import label_neurons
from tests.chat import Chat, serve_chat, tiny_chat_model
from tests.tiny import tiny_model


def kind(text: str) -> str:
    """Tell what kind of text of the corpus an excerpt is of."""
    return "code" if "def" in text else "general" if any(map(str.isalpha, text)) else "math"


def reads(prompt: str) -> str:
    """Answer as one who knows the kinds of texts: each excerpt's, and what was said to excite the neuron."""
    quoted = [json.loads(line.partition(". ")[2]) for line in re.findall(r'^\d+\. ".*"$', prompt, re.M)]
    texts = [text.replace("«", "").replace("»", "") for text in quoted]
    if "Domains:" in prompt:
        kinds = [kind(text) for text in texts]
        most = max(dict.fromkeys(kinds), key=kinds.count)
        return "\n".join([*(f"{n}: {name} 3" for n, name in enumerate(kinds, 1)), f"fires on: {most}"])
    said = re.search(r'fire on this: "(\w+)"', prompt)
    assert said
    return f"texts: {', '.join(str(n) for n, text in enumerate(texts, 1) if kind(text) == said[1]) or 'none'}"


def labelled_by(chat: Chat, labelled: SimpleNamespace, out: Path, **given: Any) -> None:
    out.mkdir(exist_ok=True)
    label_neurons(labelled.model, labelled.neurons, f"m@{chat.address}", out, **given)


def test_labels_and_scores_are_those_of_the_answers(labelled: SimpleNamespace, tmp_path: Path) -> None:
    with serve_chat(reads) as chat:
        labelled_by(chat, labelled, tmp_path / "out", count=8)
    found, labels = open_classification(labelled.neurons), open_labels(tmp_path / "out")
    known = found.neurons().set_index(["layer", "neuron"])
    table = labels.table
    assert len(table) == 8 and list(table["read"]) == [10] * 8 and labels.unanswered == 0
    for row in table.itertuples():
        votes = [found.categories[found.exemplar_categories[id]] for id in found.top(row.layer)[0][row.neuron][:10]]
        assert row.category == known.loc[(row.layer, row.neuron), "category"]
        counts = {name: votes.count(name) for name in votes}
        first = [name for name, count in counts.items() if count == max(counts.values())]
        assert row.label == (first[0] if len(first) == 1 else "general")  # as the vote of Eq. 2 with m = 1
        assert row.score == 3 * counts.get(row.label, 0)
    assert labels.agreement is not None and labels.agreement.share == 1.0
    asked = read_asked(tmp_path / "out")
    assert [each.prompt for each in asked] == chat.prompts and len(asked) == 16
    # Detection by hand, of the first neuron: the texts that were named against those that excite it.
    ids = found.top(int(table["layer"][0]))[0][int(table["neuron"][0])]
    texts = found.exemplars()["text"]
    named = {int(number) for number in re.findall(r"\d+", asked[1].answer)}
    held_out = [json.loads(line.partition(". ")[2]) for line in re.findall(r'^\d+\. ".*"$', asked[1].prompt, re.M)]
    exciting = {place for place, text in enumerate(held_out, 1) if any(text in texts[id] for id in ids[10:15])}
    assert len(exciting) == 5
    assert table["excited"][0] == len(named & exciting) and table["spared"][0] == 5 - len(named - exciting)
    meta = labels.meta
    assert meta["requests"] == 16 and meta["prompt_tokens"] == sum(len(prompt.split()) for prompt in chat.prompts)
    assert f"16 requests, {meta['prompt_tokens']:,} tokens asked" in spent(meta)


def test_a_labelling_that_was_stopped_goes_on_after_the_last_answer(labelled: SimpleNamespace, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    with serve_chat(reads) as chat:
        labelled_by(chat, labelled, whole, count=4)
        chat.requests.clear()
        chat.refuse = lambda number: 400 if number == 4 else 200
        with pytest.raises(InputError, match="refused the request"):
            labelled_by(chat, labelled, out, count=4)
        with (out / ASKED).open("a") as file:
            file.write('\n{"layer": 0, "neur')  # as a process that was killed leaves it
        labelled_by(chat, labelled, out, count=4)
    assert len(chat.requests) == 8 + 1  # the refused one twice
    assert (out / "labels.csv").read_bytes() == (whole / "labels.csv").read_bytes()
    assert [each.prompt for each in read_asked(out)] == [each.prompt for each in read_asked(whole)]


def test_what_cannot_be_read_is_kept_and_counted(labelled: SimpleNamespace, tmp_path: Path) -> None:
    answers = iter(["1: math 4\nfires on: NA", "texts: 4, 5, 99", "I am not sure.", "fires on: none", "none"])
    with serve_chat(lambda prompt: next(answers)) as chat:
        labelled_by(chat, labelled, tmp_path / "out", count=3)
    labels = open_labels(tmp_path / "out")
    assert list(labels.table["label"]) == ["math", "", ""] and list(labels.table["read"]) == [1, 0, 0]
    assert list(labels.table["explanation"]) == ["NA", "", "none"]
    assert labels.unanswered == 2 and labels.counts["no answer"].sum() == 2
    # Of the first neuron the list could not be read; of the third none of ten was named: half of them rightly.
    assert list(labels.table["excited"].isna()) == [True, True, False]
    assert list(labels.balanced_accuracy) == [0.5]
    assert [each.answer for each in read_asked(tmp_path / "out")][2] == "I am not sure."
    assert "2 of 3 have no answer that could be read." in describe(labels)


def test_a_chat_model_on_this_machine_answers_and_is_checked_before(labelled: SimpleNamespace, tmp_path: Path) -> None:
    out, chat = tmp_path / "out", tiny_chat_model(tmp_path / "chat")
    out.mkdir()
    seen: list[tuple[str, float, float]] = []
    label_neurons(
        labelled.model,
        labelled.neurons,
        chat,
        out,
        count=2,
        answer_tokens=16,
        progress=lambda stage, done, total, unit="": seen.append((stage, done, total)),
    )
    labels = open_labels(out)
    assert labels.unanswered == 2 and labels.agreement is None  # random weights: nothing that could be read
    assert [(each.about, each.answer_tokens) for each in read_asked(out)] == [("label", 16)] * 2
    assert all(each.prompt_tokens == len(each.prompt.encode()) + len("> ") for each in read_asked(out))  # bytes
    assert seen[-1] == ("Labelling", 2, 2) and ("Labelling", 1, 2) in seen
    given: dict[str, Any] = {"count": 1, "out": out}
    with pytest.raises(InputError, match="base: has no chat template; expected a chat model, or NAME@URL"):
        label_neurons(labelled.model, labelled.neurons, tiny_model(tmp_path / "base"), **given)
    with pytest.raises(InputError, match=r"tokens, and the model reads 600; .* lower answer_tokens \(512\)"):
        label_neurons(labelled.model, labelled.neurons, tiny_chat_model(tmp_path / "short", positions=600), **given)
    with pytest.raises(InputError, match="key_from: only an endpoint"):
        label_neurons(labelled.model, labelled.neurons, chat, key_from="MY_API_KEY", **given)
    other = tiny_model(tmp_path / "other", seed=5)
    with pytest.raises(InputError, match="expected a classification of other, found one of model"):
        label_neurons(other, labelled.neurons, chat, **given)


def test_tables_by_hand(tmp_path: Path) -> None:
    rows = [
        (0, 0, "math", "math", 9, 10, "x", 5, 5),  # balanced accuracy 1
        (0, 1, "math", "code", 9, 10, "x", 0, 5),  # 0.5
        (0, 2, "code", "code", 9, 10, "x", 1, 2),  # 0.3
        (1, 0, "general", "", None, 0, "", None, None),
    ]
    columns = ["layer", "neuron", "category", "label", "score", "read", "explanation", "excited", "spared"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "labels.csv", index=False)
    meta = {"by": "m", "categories": ["general", "code", "math"], "requests": 7, "prompt_tokens": 1, "answer_tokens": 2}
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "seconds": 3.0}))
    labels = open_labels(tmp_path)
    assert labels.counts.to_numpy().tolist() == [[0, 0, 0, 1], [0, 1, 0, 0], [0, 1, 1, 0]]
    assert list(labels.counts) == ["general", "code", "math", "no answer"]
    assert labels.agreement is not None
    # p_o = 2/3; p_e = (1 · 2 + 2 · 1) / 9 = 4/9; κ = (6/9 − 4/9) / (5/9) = 2/5
    assert labels.agreement.share == pytest.approx(2 / 3) and labels.agreement.kappa == pytest.approx(0.4)
    assert list(labels.balanced_accuracy) == [1.0, 0.5, 0.3]
    by_category = labels.by_category().set_index("category")
    assert list(by_category["neurons"]) == [1, 1, 2] and list(by_category["same"]) == [0, 1, 1]
    assert by_category.at["math", "accuracy"] == 0.75
    told = describe(labels)
    assert "2 of 3 neurons have the category of their texts (66.7 %" in told[0]
    assert "balanced accuracy of 60.0 %" in told[2]


def test_categories_may_be_numbers(tmp_path: Path) -> None:
    row: dict[str, Any] = {"score": 5, "read": 10, "explanation": "7", "excited": 4, "spared": 4}
    rows = [{"layer": 0, "neuron": place, "category": str(place % 2), "label": "1", **row} for place in range(4)]
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    (tmp_path / "meta.json").write_text(json.dumps({"by": "a", "categories": ["0", "1"]}))
    labels = open_labels(tmp_path)
    assert labels.counts.to_numpy().tolist() == [[0, 2, 0], [0, 2, 0]] and list(labels.by_category()["same"]) == [0, 2]
