"""What is told of a corpus: counted by hand."""

import json
from pathlib import Path

from nmerge_core.corpus.corpus import labelled
from nmerge_core.corpus.facts import corpus_facts, problem_texts
from nmerge_core.family import Family
from nmerge_core.family.texts import corpus_of
from tests.tiny import tiny_tokenizer

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def test_lengths_repetitions_and_short_texts(tmp_path: Path) -> None:
    corpus = labelled("c", {"general": ["abc", "ten  tokens", "ten tokens"], "math": ["abc", "12345678", "x" * 20]})
    tiny_tokenizer(tmp_path)  # a token a byte
    assert corpus_facts(corpus, tmp_path, {}).to_dict("records") == [
        # "ten tokens" is "ten  tokens", spaces aside; abc has fewer than 8 tokens
        {"category": "general", "texts": 3, "tokens": 3 + 11 + 10, "shortest": 3, "median": 10, "longest": 11,
         "repeated": 1, "short": 1},
        {"category": "math", "texts": 3, "tokens": 3 + 8 + 20, "shortest": 3, "median": 8, "longest": 20,
         "repeated": 1, "short": 1},
    ]  # fmt: skip
    words = corpus_facts(corpus, None, {})
    assert words["longest"].tolist() == [2, 1]


def test_what_tasks_ask_too(tmp_path: Path) -> None:
    eight = "a b c d e f g h"
    texts = [
        f"So: {LONG}.",
        f"{LONG.replace('seven', '7')}",
        f"x {eight.upper()} y",
        "a b c d e f g",
        "他 在 图书馆 读 书 和 报",
    ]
    file = tmp_path / "problems.jsonl"
    lines = [
        {"prompt": LONG, "answer": "14"},
        {"choices": [eight, "a b c d e f g"]},
        {"prompt": "他在图书馆读书和报纸"},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{\n")
    asked = list(problem_texts([file, tmp_path / "code.py"]))
    assert asked[:3] == [LONG, "14", eight] and len(asked) == 5
    # The first holds 13 words in a row of the long problem; the second has no 13 nor 8 of one; the third holds the
    # eight; seven are too few; the fifth holds 9 characters in a row.
    for text, held in zip(texts, (1, 0, 1, 0, 1), strict=True):
        (row,) = corpus_facts(labelled("c", {"general": [text]}), None, {"quiz": asked}).to_dict("records")
        assert row["in quiz"] == held, text


def test_a_family_s_yaml_of_sources_is_described_unless_one_is_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("three words here\nthree words here\nfour words in it\n")
    file = tmp_path / "corpus.yaml"
    file.write_text("general: {path: lines.txt, count: 3}\n")
    family = Family("mine", "nowhere", (), str(file))
    described = corpus_of(family, tmp_path)
    assert described is not None and described.to_dict("records") == [
        {"category": "general", "texts": 3, "tokens": 3 + 3 + 4, "shortest": 3, "median": 3, "longest": 4,
         "repeated": 1, "short": 3}
    ]  # fmt: skip
    file.write_text("general: {path: lines.txt, count: 3}\nmath: {path: openai/gsm8k}\n")
    assert corpus_of(family, tmp_path) is None
