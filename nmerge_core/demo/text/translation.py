"""English–Spanish sentence pairs built from one meaning: gender and number agreement, verb endings, contractions."""

import random
import re
from dataclasses import dataclass

from nmerge_core.demo.text import lexicon
from nmerge_core.demo.text.example import Example

_ACCENTS = str.maketrans("áéíóú", "aeiou")


@dataclass(frozen=True)
class Noun:
    """A noun in both languages; `kind` limits which verbs and adjectives go with it."""

    kind: str
    english: tuple[str, str]  # singular, plural
    spanish: tuple[str, str]
    feminine: bool


@dataclass(frozen=True)
class Adjective:
    """An adjective in both languages and the copula it takes."""

    english: str
    spanish: str  # masculine singular
    copula: str  # ser or estar


@dataclass(frozen=True)
class Verb:
    """A verb in both languages; `objects` is the kind of its objects, empty for an intransitive verb."""

    english: tuple[str, str, str]  # base, third person, past
    spanish: str  # infinitive
    stressed: str  # the stem under stress
    objects: str


@dataclass(frozen=True)
class Phrase:
    """A subject or object in both languages, with what the verb and the adjective must agree with."""

    english: str
    spanish: str
    person: int  # 0 I, 1 you, 2 he or she, 3 we, 4 they
    feminine: bool
    kind: str


def english_plural(noun: str) -> str:
    """The regular plural: box → boxes, city → cities, cat → cats."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"


def spanish_plural(word: str) -> str:
    """The regular plural: gato → gatos, flor → flores, lápiz → lápices, jardín → jardines, rey → reyes."""
    if word[-1] in "aeiouáéó":
        return word + "s"
    if word.endswith("z"):
        return word[:-1] + "ces"
    stressed_end = re.search(r"[áéíóú][ns]$", word)
    return (word[:-2] + word[-2:].translate(_ACCENTS) if stressed_end else word) + "es"


def agree(adjective: str, feminine: bool, plural: bool) -> str:
    """A Spanish adjective in the noun's gender and number: rojo, roja, rojos, rojas; verde, verdes."""
    word = adjective[:-1] + "a" if feminine and adjective.endswith("o") else adjective
    return spanish_plural(word) if plural else word


_PRESENT = {
    "ar": ("o", "as", "a", "amos", "an"),
    "er": ("o", "es", "e", "emos", "en"),
    "ir": ("o", "es", "e", "imos", "en"),
}
_PAST = {"ar": ("é", "aste", "ó", "amos", "aron"), "er": ("í", "iste", "ió", "imos", "ieron")}
_BEFORE_E = {"c": "qu", "g": "gu", "z": "c"}  # -car, -gar and -zar keep their sound before the é of the past


def conjugate(verb: Verb, tense: str, person: int) -> str:
    """The Spanish form of a verb: `tense` present or past (preterite), `person` as in `Phrase`."""
    stem, group = verb.spanish[:-2], verb.spanish[-2:]
    if tense == "present":
        return (stem if person == 3 else verb.stressed) + _PRESENT[group][person]
    if group == "ar" and person == 0:
        stem = stem[:-1] + _BEFORE_E.get(stem[-1], stem[-1])
    return stem + _PAST["ar" if group == "ar" else "er"][person]


def _read_nouns() -> tuple[Noun, ...]:
    nouns = []
    for kind, table in lexicon.NOUNS.items():
        for row in table.split(","):
            english, spanish, gender = row.split()
            singular, _, plural = english.partition("/")
            es_singular, _, es_plural = spanish.partition("/")
            nouns.append(
                Noun(
                    kind,
                    (singular, plural or english_plural(singular)),
                    (es_singular, es_plural or spanish_plural(es_singular)),
                    gender == "f",
                )
            )
    return tuple(nouns)


def _read_verbs(table: str, objects: str) -> tuple[Verb, ...]:
    rows = [row.split() for row in table.split(",")]
    return tuple(Verb((r[0], r[1], r[2]), r[3], r[4] if len(r) > 4 else r[3][:-2], objects) for r in rows)


NOUNS = _read_nouns()
ADJECTIVES = {
    kind: tuple(
        Adjective(english, spanish, group.split()[1])
        for group, table in lexicon.ADJECTIVES.items()
        if group.split()[0] == kind
        for english, spanish in map(str.split, table.split(","))
    )
    for kind in ("person", "thing")
}
TRANSITIVE = tuple(verb for kind, table in lexicon.TRANSITIVE.items() for verb in _read_verbs(table, kind))
INTRANSITIVE = _read_verbs(lexicon.INTRANSITIVE, "")
_NOUNS_OF = {kind: tuple(noun for noun in NOUNS if noun.kind == kind) for kind in lexicon.NOUNS}
_LIVING = _NOUNS_OF["person"] + _NOUNS_OF["animal"]


def _adjective(rng: random.Random, kind: str) -> Adjective:
    return rng.choice(ADJECTIVES["person" if kind in ("person", "animal") else "thing"])


def noun_phrase(rng: random.Random, nouns: tuple[Noun, ...]) -> Phrase:
    """Determiner, noun and, often, an adjective: `those small dogs`, `esos perros pequeños`."""
    noun, plural = rng.choice(nouns), rng.random() < 0.35
    determiner, forms = rng.choice(list(lexicon.DETERMINERS["plural" if plural else "singular"].items()))
    english, spanish = [noun.english[plural]], [forms.split()[noun.feminine], noun.spanish[plural]]
    if rng.random() < 0.35:
        adjective = _adjective(rng, noun.kind)
        english.insert(0, adjective.english)
        spanish.append(agree(adjective.spanish, noun.feminine, plural))
    if determiner == "a" and re.match("[aeio]|u(?!se)|honest", english[0]):
        determiner = "an"
    return Phrase(" ".join([determiner, *english]), " ".join(spanish), 4 if plural else 2, noun.feminine, noun.kind)


def _subject(rng: random.Random) -> Phrase:
    if rng.random() < 0.35:
        english, spanish, person, feminine = rng.choice(lexicon.PRONOUNS)
        return Phrase(english, spanish, person, feminine, "person")
    return noun_phrase(rng, _LIVING)


def _place(rng: random.Random) -> tuple[str, str]:
    preposition, spanish = rng.choice(list(lexicon.PREPOSITIONS.items()))
    place = noun_phrase(rng, _NOUNS_OF["place"])
    return f"{preposition} {place.english}", f"{spanish} {place.spanish}"


def _action(rng: random.Random) -> tuple[str, str]:
    """Someone does, did, does not, wants to or can do something: most of the sentences."""
    subject = _subject(rng)
    singular = subject.person == 2
    verb = rng.choice(TRANSITIVE) if rng.random() < 0.7 else rng.choice(INTRANSITIVE)
    base, third, past = verb.english
    style = rng.choice(("present", "present", "past", "past", "modal", "negative"))
    if style == "modal":
        (plain, with_he), forms = rng.choice(list(lexicon.MODALS.items()))
        modal = with_he if singular else "am going to" if (plain, subject.person) == ("are going to", 0) else plain
        english = [subject.english, modal, base]
        spanish = [subject.spanish, forms.split()[subject.person].replace("+", " "), verb.spanish]
    elif style == "past":
        english = [subject.english, past]
        spanish = [subject.spanish, conjugate(verb, "past", subject.person)]
    elif style == "negative":
        english = [subject.english, "does not" if singular else "do not", base]
        spanish = [subject.spanish, "no", conjugate(verb, "present", subject.person)]
    else:
        english = [subject.english, third if singular else base]
        spanish = [subject.spanish, conjugate(verb, "present", subject.person)]
    if verb.objects:
        item = noun_phrase(rng, _NOUNS_OF[verb.objects])
        english.append(item.english)
        spanish.append(("a " if item.kind == "person" else "") + item.spanish)  # the personal a
    if rng.random() < (0.15 if verb.objects else 0.6):
        place = _place(rng)
        english.append(place[0])
        spanish.append(place[1])
    if rng.random() < 0.2:
        time = rng.choice(list((lexicon.PAST_TIMES if style == "past" else lexicon.PRESENT_TIMES).items()))
        english.append(time[0])
        spanish.append(time[1])
    return " ".join(english), " ".join(spanish)


def _description(rng: random.Random) -> tuple[str, str]:
    """Something is so, or is somewhere: ser for qualities, estar for states and places."""
    subject = noun_phrase(rng, rng.choice(tuple(_NOUNS_OF.values())))
    plural = subject.person == 4
    be, ser, estar = ("are", "son", "están") if plural else ("is", "es", "está")
    if subject.kind != "place" and rng.random() < 0.3:
        place = _place(rng)
        return f"{subject.english} {be} {place[0]}", f"{subject.spanish} {estar} {place[1]}"
    adjective = _adjective(rng, subject.kind)
    copula = ser if adjective.copula == "ser" else estar
    negative = rng.random() < 0.25
    english = f"{subject.english} {be} {'not ' * negative}{adjective.english}"
    return english, f"{subject.spanish} {'no ' * negative}{copula} {agree(adjective.spanish, subject.feminine, plural)}"


def _clause(rng: random.Random) -> tuple[str, str]:
    return _action(rng) if rng.random() < 0.7 else _description(rng)


def _polish(english: str, spanish: str) -> tuple[str, str]:
    """Contractions (de el → del, a el → al; y → e before i), the space of a dropped pronoun, capitals, full stops."""
    spanish = re.sub(r"\b(de|a) el\b", lambda pair: pair[1] + "l", " ".join(spanish.split()))
    spanish = re.sub(r"\by (?=h?i)", "e ", spanish)
    return english[0].upper() + english[1:] + ".", spanish[0].upper() + spanish[1:] + "."


def sentence(rng: random.Random) -> tuple[str, str]:
    """One English text and its Spanish translation: a noun phrase, a sentence, or two of them joined."""
    length = rng.random()
    if length < 0.25:
        phrase = noun_phrase(rng, NOUNS)
        return _polish(phrase.english, phrase.spanish)
    english, spanish = _clause(rng)
    if length > 0.8:
        conjunction, translated = rng.choice(list(lexicon.CONJUNCTIONS.items()))
        second = _clause(rng)
        english, spanish = f"{english} {conjunction} {second[0]}", f"{spanish} {translated} {second[1]}"
    return _polish(english, spanish)


def generate(rng: random.Random) -> Example:
    """A sentence to translate, in either direction; its key is the English side, shared by both directions."""
    english, spanish = sentence(rng)
    if rng.random() < 0.5:
        prompt, answer, direction = f"English: {english}\nSpanish:", spanish, "en-es"
    else:
        prompt, answer, direction = f"Spanish: {spanish}\nEnglish:", english, "es-en"
    return Example(english, f"{prompt} {answer}", prompt, answer, direction=direction)
