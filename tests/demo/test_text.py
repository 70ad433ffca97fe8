import random

import pytest

from nmerge_core.demo.text import CATEGORIES, GENERATORS, distinct, examples, split_of, translation
from nmerge_core.demo.text.math import KINDS
from nmerge_core.demo.text.translation import Verb, agree, conjugate, english_plural, spanish_plural


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_same_seed_gives_the_same_examples_and_another_seed_others(category):
    first, again, other = (distinct(category, "train", seed, 20) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("category", CATEGORIES)
def test_splits_share_neither_a_problem_nor_a_text(category):
    splits = {split: distinct(category, split, 0, 150) for split in ("train", "test", "corpus")}
    for one, other in (("train", "test"), ("train", "corpus"), ("test", "corpus")):
        assert not {e.key for e in splits[one]} & {e.key for e in splits[other]}
        assert not {e.text for e in splits[one]} & {e.text for e in splits[other]}


def test_every_split_gets_its_share():
    splits = [split_of(f"problem {number}") for number in range(5000)]
    assert splits.count("test") / 5000 == pytest.approx(0.08, abs=0.015)
    assert splits.count("corpus") / 5000 == pytest.approx(0.08, abs=0.015)


@pytest.mark.parametrize("category", ["math", "code", "translation"])
def test_a_task_text_is_its_prompt_and_its_answer(category):
    for example in distinct(category, "test", 0, 50):
        assert example.text.startswith(example.prompt)
        assert example.text[len(example.prompt) :].lstrip(" ") == example.answer.lstrip(" ") != ""


def test_math_answers_follow_from_the_numbers_in_the_key():
    for example in distinct("math", "test", 0, 200):
        formula, _, rest = example.key.partition(" [")
        values = dict(eval("[" + rest.partition("]")[0] + "]"))
        assert eval(formula, {}, values) == int(example.answer) >= 0
        assert all(str(value) in example.prompt for value in values.values())
    assert {e.key.partition(" [")[0] for e in distinct("math", "train", 0, 300)} == {kind.formula for kind in KINDS}


def test_reference_solutions_pass_their_tests():
    for example in distinct("code", "test", 0, 200):
        exec(example.prompt + example.answer + "\n" + example.tests, {})
        assert example.prompt.startswith(f"def {example.entry_point}(")
        assert all(line.startswith("    ") for line in example.answer.split("\n"))


def test_code_tests_tell_a_wrong_body():
    wrong = 0
    for example in distinct("code", "test", 0, 50):
        try:
            exec(example.prompt + "    return None\n" + example.tests, {})
        except AssertionError:
            wrong += 1
    assert wrong == 50


@pytest.mark.parametrize(
    ("singular", "plural"),
    [("gato", "gatos"), ("flor", "flores"), ("lápiz", "lápices"), ("jardín", "jardines"), ("rey", "reyes"),
     ("estación", "estaciones"), ("gris", "grises"), ("café", "cafés"), ("león", "leones")],
)  # fmt: skip
def test_spanish_plurals(singular, plural):
    assert spanish_plural(singular) == plural


@pytest.mark.parametrize(
    ("singular", "plural"),
    [("cat", "cats"), ("box", "boxes"), ("city", "cities"), ("key", "keys"), ("church", "churches")],
)
def test_english_plurals(singular, plural):
    assert english_plural(singular) == plural


@pytest.mark.parametrize(
    ("adjective", "feminine", "plural", "form"),
    [("rojo", False, False, "rojo"), ("rojo", True, False, "roja"), ("rojo", True, True, "rojas"),
     ("verde", True, False, "verde"), ("azul", True, True, "azules"), ("vacío", True, True, "vacías")],
)  # fmt: skip
def test_adjectives_agree(adjective, feminine, plural, form):
    assert agree(adjective, feminine, plural) == form


@pytest.mark.parametrize(
    ("spanish", "stressed", "tense", "forms"),
    [
        ("comprar", "compr", "present", "compro compras compra compramos compran"),
        ("encontrar", "encuentr", "present", "encuentro encuentras encuentra encontramos encuentran"),
        ("perder", "pierd", "present", "pierdo pierdes pierde perdemos pierden"),
        ("vivir", "viv", "present", "vivo vives vive vivimos viven"),
        ("tocar", "toc", "past", "toqué tocaste tocó tocamos tocaron"),
        ("encargar", "encarg", "past", "encargué encargaste encargó encargamos encargaron"),
        ("abrazar", "abraz", "past", "abracé abrazaste abrazó abrazamos abrazaron"),
        ("comer", "com", "past", "comí comiste comió comimos comieron"),
    ],
)
def test_verbs_are_conjugated(spanish, stressed, tense, forms):
    verb = Verb(("", "", ""), spanish, stressed, "")
    assert [conjugate(verb, tense, person) for person in range(5)] == forms.split()


def test_contractions_and_the_personal_a():
    assert translation._polish("I greet the king", " saludo a el rey") == ("I greet the king.", "Saludo al rey.")
    assert translation._polish(
        "it is far from the river and I print a page", "está lejos de el río y imprimo una página"
    ) == (
        "It is far from the river and I print a page.",
        "Está lejos del río e imprimo una página.",
    )
    sentences = [translation.sentence(random.Random(seed)) for seed in range(400)]
    assert not any(" de el " in spanish or " a el " in spanish for _, spanish in sentences)


def test_the_lexicon_is_one_to_one():
    english = [noun.english[0] for noun in translation.NOUNS]
    spanish = [noun.spanish[0] for noun in translation.NOUNS]
    assert len(set(english)) == len(english) and len(set(spanish)) == len(spanish)
    verbs = (*translation.TRANSITIVE, *translation.INTRANSITIVE)
    assert len({verb.spanish for verb in verbs}) == len({verb.english[0] for verb in verbs}) == len(verbs)
    adjectives = [adjective for group in translation.ADJECTIVES.values() for adjective in group]
    assert len({a.spanish for a in adjectives}) == len({a.english for a in adjectives}) == len(adjectives)


def test_general_texts_are_complete_sentences():
    rng = random.Random(0)
    for _ in range(300):
        text = GENERATORS["general"](rng).text
        assert "{" not in text and text[-1] in '.?!"' and not text[0].islower()


def test_examples_belong_to_their_split():
    stream = examples("math", "corpus", 3)
    assert all(split_of(next(stream).key) == "corpus" for _ in range(50))
