"""From a recipe's `chat_template` to how one talks to the merge: whose templates, end tokens and settings it has."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nmerge_core.checkpoints import Checkpoint, labels
from nmerge_core.checkpoints.conversation import (
    DEFAULT,
    SPECIAL,
    Conversation,
    config_id,
    is_ids,
    read_conversations,
    token_text,
    told_differences,
)
from nmerge_core.checkpoints.uses import classes_in, use_of
from nmerge_core.checkpoints.vocabulary import Vocabulary, some
from nmerge_core.errors import InputError, shown
from nmerge_core.merging.plan.merged_vocabulary import MergedVocabulary
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.template_choice import AUTO, KEY, TemplateChoice
from nmerge_core.merging.recipe.tokenizer_choice import BASE


@dataclass(frozen=True)
class MergedConversation:
    """How one talks to a merge, in the merge's own ids, and whose it is.

    `owner` is the model whose end tokens and settings these are; `choice` is what the recipe records, never `auto`.
    """

    owner: Checkpoint
    name: str
    choice: TemplateChoice
    conversation: Conversation
    warnings: tuple[str, ...]

    @property
    def summary(self) -> str:
        """Whose template, end tokens and settings these are; empty where a merge knows no tokens, or sees images."""
        use = use_of(classes_in(self.owner.config))
        if not self.owner.architecture.vocabulary or (use and use.sees):
            return ""
        rest = f"end tokens ({', '.join(self.conversation.end_tokens) or 'none'}) and generation settings"
        if self.choice.kind in ("file", "text"):
            template = self.choice.source if self.choice.kind == "file" or "{" not in self.choice.source else "own"
            return f"chat template {template}; {rest} of {self.name}"
        template = "chat template" if self.conversation.templates else "no chat template"
        return f"{template}, {rest} of {self.name}"

    def report(self) -> dict[str, Any]:
        """Say for nmerge_report.json whose they are, and what they are."""
        facts = {
            "chat_template": self.choice.source,
            "templates": list(self.conversation.templates),
            "of": self.owner.reference,
            "end_tokens": list(self.conversation.end_tokens),
            "generation": self.conversation.settings,
        }
        return {"conversation": facts}


def merged_conversation(
    recipe: Recipe, checkpoints: Sequence[Checkpoint], vocabulary: MergedVocabulary
) -> MergedConversation:
    """Find how one talks to the merge that a recipe asks for; `checkpoints` are its models, the base first if named.

    Raises:
        InputError: a file beside the models is not what it should be, or the merge's vocabulary lacks a token of the
            template or the end tokens that the recipe chooses.
    """
    names = labels([checkpoint.reference for checkpoint in checkpoints])
    spoken = read_conversations(checkpoints)
    choice, ids = recipe.chat_template or TemplateChoice(AUTO), vocabulary.ids()
    text = choice.text(recipe.path)
    lacking = [_lacking(each, ids, each.templates if text is None else {}) for each in spoken]
    merged = range(1 if recipe.base_model else 0, len(checkpoints))
    tokenizer = checkpoints.index(vocabulary.tokenizer)
    warnings: list[str] = []
    if text is not None:
        _check_template(text, spoken, ids)
        # What a template goes with is a model that ends where it does.
        possible = [each for each in (*merged, 0) if not lacking[each]] or [tokenizer]
        owner = next((each for each in possible if _named_in(text, spoken[each].end_tokens)), possible[0])
    elif choice.source == AUTO:
        possible = [each for each, missing in enumerate(lacking) if not missing]
        owner = _elected(possible, spoken, tokenizer, bool(recipe.base_model))
        warnings += [_passed_over(names[each], lacking[each]) for each in merged if lacking[each]]
    else:
        owner = 0 if choice.source == BASE else [each.reference for each in checkpoints].index(choice.source)
        if lacking[owner]:
            raise InputError(
                f"{KEY}: {names[owner]}'s chat template and end tokens need {some(lacking[owner])}, which the merge's "
                f"vocabulary does not have; add `tokenizer: {names[owner]}` or `union`, or choose another"
            )
    conversation = _translated(spoken[owner], spoken[tokenizer], ids)
    if text is not None:
        ends = [token for each in spoken for token in _named_in(text, each.end_tokens)]
        conversation = _ending(replace(conversation, templates={DEFAULT: text}), ends)
    else:
        own = TemplateChoice(checkpoints[owner].reference, "model")
        choice = TemplateChoice(BASE) if owner == 0 and recipe.base_model else own
    warnings += [f"{who}: {told}; the merge has {names[owner]}'s" for who, told in told_differences(checkpoints)]
    return MergedConversation(
        checkpoints[owner], names[owner], choice, conversation, (*warnings, *_endless(conversation))
    )


def _elected(possible: Sequence[int], spoken: Sequence[Conversation], tokenizer: int, with_base: bool) -> int:
    """Return the position of a model whose templates and end tokens most of the possible ones have; 0 is the base's.

    The base has no say, and models without template have none where others have one; where only the base has one, it is
    the base's. Of equally many those are taken that are not the base's, then those of the model whose tokenizer the
    merge has, then the recipe's first. What the base has too is taken from the base.
    """

    def said(position: int) -> tuple[object, ...]:
        own = spoken[position]
        texts = {name: text.strip() for name, text in own.templates.items()}
        return tuple(sorted(texts.items())), tuple(sorted(own.end_tokens))

    with_template = [each for each in possible if spoken[each].templates]
    tuned = [each for each in possible if each or not with_base]
    voters = [each for each in with_template if each in tuned] or with_template or tuned
    votes = Counter(map(said, voters))

    def rank(position: int) -> tuple[int, bool, bool]:
        of_base = with_base and said(position) == said(0)
        return -votes[said(position)], of_base, position != tokenizer

    winner = min(voters, key=rank, default=tokenizer)
    return 0 if with_base and said(winner) == said(0) else winner


def _lacking(own: Conversation, ids: Mapping[str, int] | None, templates: Mapping[str, str]) -> list[str]:
    """Return the tokens of a model's templates, and those it ends at, that the merge does not have."""
    if ids is None or own.vocabulary is None:
        return []
    needed = {
        *own.end_tokens,
        *(token for text in templates.values() for token in _named_in(text, own.vocabulary.added)),
    }
    return sorted(shown(token) for token in needed if token in own.vocabulary.row and token not in ids)


def _check_template(text: str, spoken: Sequence[Conversation], ids: Mapping[str, int] | None) -> None:
    known = {token for each in spoken if each.vocabulary for token in each.vocabulary.added}
    if missing := sorted(shown(token) for token in _named_in(text, known) if ids is not None and token not in ids):
        raise InputError(
            f"{KEY}: the template needs {some(missing)}, which the merge's vocabulary does not have; choose a "
            "'tokenizer' that has it, or another template"
        )


def _named_in(text: str, tokens: Iterable[str]) -> list[str]:
    """Return the tokens that a template has in its text; one of blanks alone is how it is set."""
    return [token for token in tokens if token.strip() and token in text]


def _passed_over(name: str, missing: Sequence[str]) -> str:
    return (
        f"{name}: its chat template and end tokens cannot be the merge's, whose vocabulary does not have "
        f"{some(missing)}; `tokenizer: {name}` or `tokenizer: union` in the recipe makes them possible"
    )


def _endless(conversation: Conversation) -> list[str]:
    """Say of a chat template if it has none of the tokens that an answer ends at."""
    text, ends = conversation.templates.get(DEFAULT, ""), conversation.end_tokens
    if not text or not ends or "eos_token" in text or _named_in(text, ends):
        return []
    return [
        f"the merge may not stop: its chat template has none of its end tokens ({', '.join(ends)}); choose another "
        "'chat_template' in the recipe"
    ]


def _translated(own: Conversation, of_tokenizer: Conversation, ids: Mapping[str, int] | None) -> Conversation:
    """Return a model's conversation with the merge's ids, its first and padding token those of the merge's tokenizer
    where the merge does not have them.
    """
    if own.vocabulary is None or ids is None:
        return _ending(own, ())
    by_id = own.vocabulary.by_id

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(each) for each in value]
        return ids.get(by_id[value], None) if isinstance(value, int) and value in by_id else value

    special, config = dict(own.special), {}
    for name in SPECIAL:
        key, id = f"{name}_token", moved(config_id(own.config, name))
        if token_text(special.get(key)) in own.vocabulary.row.keys() - ids.keys():
            special = special | {key: of_tokenizer.special[key]} if key in of_tokenizer.special else special
        config[f"{key}_id"] = config_id(of_tokenizer.config, name) if id is None else id
    generation = own.generation and {key: moved(each) if is_ids(key) else each for key, each in own.generation.items()}
    merged = Vocabulary(ids, {}, len(ids))
    return _ending(replace(own, special=special, config=config, generation=generation, vocabulary=merged), ())


def _ending(own: Conversation, tokens: Iterable[str]) -> Conversation:
    """Return a conversation that says in each of its files that it ends where it ends, and at these tokens too."""
    known = own.vocabulary.ids if own.vocabulary else {}
    ends = list(dict.fromkeys([*own.ends, *(known[token] for token in tokens if token in known)]))
    if not ends:
        return own
    both = ends[0] if len(ends) == 1 else ends
    said = config_id(own.config, "eos")
    if own.generation is None:
        return replace(own, config={**own.config, "eos_token_id": both})
    listed = said if isinstance(said, list) else [said]
    config = own.config if {*listed} <= {*ends} else {**own.config, "eos_token_id": both}
    return replace(own, config=config, generation={**own.generation, "eos_token_id": both})
