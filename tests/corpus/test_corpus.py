import json
import re

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from nmerge_core.corpus.corpus import is_on_disk, load_corpus, whole_and_slice
from nmerge_core.errors import InputError
from tests.tiny import TEXTS, write_corpus


def test_a_folder_is_read_general_first_and_ids_count_through(tmp_path):
    corpus = load_corpus(write_corpus(tmp_path, TEXTS))
    assert corpus.categories == ("general", "code", "math")
    assert [exemplar.id for exemplar in corpus.exemplars] == list(range(12))
    assert corpus.exemplars[4].text == TEXTS["code"][0]
    assert corpus.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_chosen_categories_keep_their_order_and_general_is_always_there(tmp_path):
    corpus = load_corpus(write_corpus(tmp_path, TEXTS), ["math", "code"], per_category=2)
    assert corpus.categories == ("general", "math", "code")
    assert [exemplar.text for exemplar in corpus.exemplars if exemplar.category == "math"] == TEXTS["math"][:2]


def test_lines_held_out_are_the_last_of_each_category(tmp_path):
    folder = write_corpus(tmp_path, TEXTS)
    kept, held_out = load_corpus(f"{folder}[:-1]"), load_corpus(f"{folder}[-1:]")
    order = ("general", "code", "math")
    assert [exemplar.text for exemplar in kept.exemplars] == [text for name in order for text in TEXTS[name][:3]]
    assert [exemplar.text for exemplar in held_out.exemplars] == [TEXTS[name][3] for name in order]
    assert load_corpus(f"{folder}[-9:]").exemplars == load_corpus(folder).exemplars
    first = load_corpus(f"{folder}[:-1]", ["math"], per_category=2)
    assert [exemplar.text for exemplar in first.exemplars] == TEXTS["general"][:2] + TEXTS["math"][:2]
    with pytest.raises(InputError, match=r"\[:-4\]: category general has no exemplars; add some"):
        load_corpus(f"{folder}[:-4]")
    with pytest.raises(InputError, match="3 were asked for, found general 2, code 2, math 2"):
        load_corpus(f"{folder}[:-2]", per_category=3)


@pytest.mark.parametrize("reference", ["c[:-0]", "c[:3]", "c[3:]", "c[:]", "c[-2:-1]", "c[1]", f"c[:-{'9' * 5000}]"])
def test_what_is_no_slice_of_last_lines_is_a_name(reference):
    assert whole_and_slice(reference) == (reference, "")
    with pytest.raises(InputError, match="found neither"):
        load_corpus(reference)


def test_equal_texts_have_equal_fingerprints_and_others_not(tmp_path):
    first = load_corpus(write_corpus(tmp_path / "a", TEXTS)).fingerprint
    assert load_corpus(write_corpus(tmp_path / "b", TEXTS)).fingerprint == first
    changed = {**TEXTS, "math": [*TEXTS["math"][:3], "8"]}
    assert load_corpus(write_corpus(tmp_path / "c", changed)).fingerprint != first


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nothing", r'math\.jsonl, line 2: not JSON \(.*\); expected {"text": "…"}'),
        ('{"question": "x"}', r"math\.jsonl, line 2: no string under 'text', found keys question"),
        ("[1]", r"math\.jsonl, line 2: no string under 'text', found list"),
        ('{"text": " "}', r"math\.jsonl, line 2: the text is empty"),
        ('{"text": "\\ud800"}', r"math\.jsonl, line 2: the text is not Unicode"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    write_corpus(tmp_path, TEXTS)
    (tmp_path / "math.jsonl").write_text(f'{{"text": "x"}}\n{line}\n')
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}/") + message):
        load_corpus(str(tmp_path))


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    write_corpus(tmp_path, TEXTS)
    (tmp_path / "math.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"math\.jsonl, line 1: the text is not Unicode"):
        load_corpus(str(tmp_path))


def test_what_is_missing_or_uneven_is_said(tmp_path):
    with pytest.raises(InputError, match="expected a folder of <category>.jsonl files or a YAML file"):
        load_corpus(str(tmp_path / "nowhere"))
    folder = write_corpus(tmp_path / "corpus", {**TEXTS, "math": TEXTS["math"][:3]})
    with pytest.raises(InputError, match="found general 4, code 4, math 3; take 3 of each"):
        load_corpus(folder)
    assert len(load_corpus(folder, per_category=3).exemplars) == 9
    with pytest.raises(InputError, match="4 were asked for, found general 4, code 4, math 3"):
        load_corpus(folder, per_category=4)
    with pytest.raises(InputError, match="no category physics; it has code, general, math"):
        load_corpus(folder, ["physics"])
    (tmp_path / "corpus" / "math.jsonl").write_text("\n")
    with pytest.raises(InputError, match="category math has no exemplars"):
        load_corpus(folder)
    (tmp_path / "corpus" / "general.jsonl").unlink()
    with pytest.raises(InputError, match=r"expected a category general \(general.jsonl\), found code, math"):
        load_corpus(folder)


def test_a_users_folder_is_found_and_an_unknown_user_told_of(tmp_path, monkeypatch):
    write_corpus(tmp_path / "corpus", TEXTS)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_corpus("~/corpus[:-1]").categories == load_corpus(str(tmp_path / "corpus")).categories
    with pytest.raises(InputError, match="corpus ~nobody-of-this-name/c: expected a folder"):
        load_corpus("~nobody-of-this-name/c")


def test_a_yaml_names_sources_beside_it(tmp_path):
    write_corpus(tmp_path / "texts", {"general": TEXTS["general"]})
    pd.DataFrame({"question": TEXTS["math"]}).to_parquet(tmp_path / "math.parquet")
    sources = {"general": {"path": "texts/general.jsonl"}, "math": {"path": "math.parquet", "column": "question"}}
    file = tmp_path / "corpus.yaml"
    file.write_text(json.dumps({name: {**source, "count": 3} for name, source in sources.items()}))
    corpus = load_corpus(str(file))
    assert [exemplar.text for exemplar in corpus.exemplars] == TEXTS["general"][:3] + TEXTS["math"][:3]


def test_a_yaml_takes_lines_of_text_and_what_was_saved(tmp_path):
    (tmp_path / "lines.txt").write_bytes("\ufeffone\r\n\r\ntwo\r\n \nthree\n".encode())
    Dataset.from_dict({"text": TEXTS["math"]}).save_to_disk(tmp_path / "saved")
    DatasetDict(dev=Dataset.from_dict({"line": TEXTS["code"]})).save_to_disk(tmp_path / "splits")
    file = tmp_path / "corpus.yaml"
    sources = "general: {path: lines.txt, count: 3}\nmath: {path: saved, count: 3}\n"
    file.write_text(f"{sources}code: {{path: splits, split: dev, column: line, count: 3}}\n")
    texts = ["one", "two", "three", *TEXTS["math"][:3], *TEXTS["code"][:3]]
    assert [exemplar.text for exemplar in load_corpus(str(file)).exemplars] == texts and is_on_disk(str(file))
    file.write_text(f"{sources}code: {{path: splits}}\n")
    with pytest.raises(InputError, match="code: splits could not be read .no split train; it has dev"):
        load_corpus(str(file))
    file.write_text(f"{sources}code: {{path: openai/gsm8k}}\n")
    assert not is_on_disk(str(file))


@pytest.mark.parametrize("name", ["lines.txt", "table.csv", "lines.jsonl"])
def test_a_source_s_line_that_is_not_utf8_is_named(tmp_path, name):
    lines = ['{"text": "one"}', '{"text": "caf\xe9"}'] if name.endswith("jsonl") else ["text", "caf\xe9"]
    (tmp_path / name).write_bytes("\n".join(lines).encode("latin-1"))
    (tmp_path / "corpus.yaml").write_text(f"general: {{path: {name}, count: 2}}")
    with pytest.raises(InputError, match=f"general: {name} could not be read .line 2 is not Unicode; expected"):
        load_corpus(str(tmp_path / "corpus.yaml"))


def test_a_category_of_a_yaml_may_be_called_by_a_number(tmp_path):
    write_corpus(tmp_path / "texts", {"general": TEXTS["general"]})
    source = "{path: texts/general.jsonl, count: 2}"
    (tmp_path / "corpus.yaml").write_text(f"general: {source}\n2024: {source}\n")
    assert load_corpus(str(tmp_path / "corpus.yaml")).categories == ("general", "2024")


def test_a_template_joins_columns_and_a_seed_draws_rows(tmp_path):
    rows = pd.DataFrame({"question": [f"{n} + 1 =" for n in range(40)], "final answer": range(1, 41)})
    rows.to_json(tmp_path / "math.jsonl", orient="records", lines=True)  # at the end of a Parquet `datasets` sleeps
    write_corpus(tmp_path / "texts", {"general": [str(n) for n in range(40)]})
    file = tmp_path / "corpus.yaml"

    def read(**drawn):
        math = {"path": "math.jsonl", "template": "Q: {question}\nA: {final answer}", "count": 5, **drawn}
        file.write_text(json.dumps({"general": {"path": "texts/general.jsonl", "count": 5}, "math": math}))
        return [exemplar.text for exemplar in load_corpus(str(file)).exemplars][5:]

    every = [f"Q: {n} + 1 =\nA: {n + 1}" for n in range(40)]
    assert read() == every[:5]
    drawn = read(seed=3)
    assert len({*drawn}) == 5 and {*drawn} < {*every} and drawn != every[:5]
    assert read(seed=3) == drawn != read(seed=4)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ("[1, 2]", "expected a mapping with general, other categories; found list"),
        ("{general: 3}", "expected `category: {path, config, split, column, template, image, count, seed}`"),
        ("{general: {path: x}, general: {path: y}}", "found the key 'general' a second time"),
        ("{general: {path: x, count: many}}", "general: `count` must be a whole number from 1, found 'many'"),
        ("{general: {path: x, count: 0}}", "general: `count` must be a whole number from 1, found 0"),
        ("{general: {path: x, colum: text}}", "general: unknown key colum; did you mean column?"),
        ("{general: {path: x}, '': {path: y}}", "a category needs a name, found ''"),
        ("{general: {column: text}}", "general: `path` must name a dataset, found None"),
        (f"{{general: {{path: [{'0, ' * 3000}0]}}}}", r"`path` must name a dataset, found \[0, 0, .{,200}$"),
        ("{general: {path: text}}", "general: text is a kind of file; name the file"),
        ("{general: {path: no.jsonl}}", "general: no.jsonl could not be read .there is no"),
        ("{general: {path: texts/general.jsonl, column: words}}", "row 1: no string under 'words', found keys text"),
        ("{general: {path: x, seed: -1}}", "general: `seed` must be a whole number from 0, found -1"),
        ("{general: {path: x, template: text}}", "general: `template` must be a text with the names .*found 'text'$"),
        ('{general: {path: x, template: "{a}", column: b}}', "in place of a `column`; found .* beside a `column`"),
        (
            '{general: {path: texts/general.jsonl, template: "{words}"}}',
            "row 1: no text under 'words', which `template` names, found keys text",
        ),
        ("general: {", "not readable as YAML"),
    ],
)
def test_a_bad_yaml_is_explained(tmp_path, sources, message):
    write_corpus(tmp_path / "texts", {"general": TEXTS["general"]})
    file = tmp_path / "corpus.yaml"
    file.write_text(sources)
    with pytest.raises(InputError, match=message):
        load_corpus(str(file))


def test_a_mark_at_the_start_and_ends_of_lines_of_windows_are_read(tmp_path):
    folder = write_corpus(tmp_path / "corpus", TEXTS)
    plain = load_corpus(folder)
    for file in (tmp_path / "corpus").iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert load_corpus(folder).fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    "line", ['{"text": "caf\xe9"}', '{"text": "a"}\xff', '{"text": ' + "9" * 5_000 + "}", "[" * 100_000]
)
def test_bytes_that_are_no_text_and_numbers_that_are_none_are_named_with_file_and_line(line, tmp_path):
    folder = write_corpus(tmp_path, TEXTS)
    file = tmp_path / "math.jsonl"
    file.write_bytes(file.read_bytes() + line.encode("latin-1") + b"\n")
    with pytest.raises(InputError, match=r"math\.jsonl, line 5: ") as error:
        load_corpus(folder)
    assert len(str(error.value)) < 400
