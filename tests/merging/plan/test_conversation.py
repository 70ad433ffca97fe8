"""How one talks to a merge: whose chat template, end tokens and settings it has, judged by what transformers loads."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from nmerge_core.checkpoints import inspect_family
from nmerge_core.checkpoints.conversation import read_templates
from nmerge_core.cli import main
from nmerge_core.errors import InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.recipe.reading import load_recipe
from tests.merging import checkpoints
from tests.merging.vocabularies import TRAINED, with_tokens

START, END = "<|im_start|>", "<|im_end|>"
TOKENS = [*TRAINED, START, END]  # 16 and 17
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
SAMPLING = {
    "do_sample": True,
    "use_cache": True,
    "top_k": 50,
    "num_beams": 1,
    "temperature": 0.6,
    "top_p": 0.95,
    "eos_token_id": [17, 0],
    "pad_token_id": 0,
}
HI = [{"role": "user", "content": "ab"}]


def change(file: Path, **content: Any) -> None:
    old = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**old, **content}))


def teach(folder: str, template: str | None, end: str = END, generation: Mapping[str, Any] | None = SAMPLING) -> str:
    """Give a model a chat template, an end token and settings."""
    change(Path(folder) / "tokenizer_config.json", eos_token=end, **({"chat_template": template} if template else {}))
    change(Path(folder) / "config.json", eos_token_id=TOKENS.index(end))
    if generation:
        change(Path(folder) / "generation_config.json", **generation)
    return folder


@pytest.fixture(scope="module")
def talkers(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A base without template, chat whose head says the end token at once, code that talks as chat, plain as base."""
    root = tmp_path_factory.mktemp("talkers")
    made = {name: with_tokens(root / name, seed, TOKENS) for seed, name in enumerate(("base", "chat", "code", "plain"))}
    made["chat"][1]["model.embed_tokens.weight"][:, 0] = 100.0
    made["chat"][1]["model.norm.weight"].fill_(1.0)
    made["chat"][1]["lm_head.weight"][:, 0] = 0.0
    made["chat"][1]["lm_head.weight"][TOKENS.index(END), 0] = 50.0
    checkpoints.write(root / "chat", made["chat"][1], vocab_size=len(TOKENS), tie_word_embeddings=False)
    folders = {name: folder for name, (folder, _) in made.items()}
    for name in ("base", "plain"):
        teach(folders[name], None, "<|endoftext|>", None)
    teach(folders["chat"], TEMPLATE)
    teach(folders["code"], f"{TEMPLATE}\n", generation={**SAMPLING, "temperature": 1.1})
    return SimpleNamespace(root=root, **folders)


def recipe_of(talkers: SimpleNamespace, *models: str, **more: Any):
    entries = [{"model": getattr(talkers, model, model)} for model in models]
    return load_recipe({"merge_method": "task_arithmetic", "base_model": talkers.base, "models": entries, **more})


def merged(recipe: Any, out: Path) -> SimpleNamespace:
    """Merge, load what was written, and check that its files agree with one another."""
    merge(recipe, out)
    tokenizer, config = AutoTokenizer.from_pretrained(out), json.loads((out / "config.json").read_text())
    settings = GenerationConfig.from_pretrained(out) if (out / "generation_config.json").exists() else None
    ends = settings.eos_token_id if settings else config["eos_token_id"]
    ends = ends if isinstance(ends, list) else [ends]
    assert tokenizer.eos_token_id in ends
    said = config["eos_token_id"]
    assert {*(said if isinstance(said, list) else [said])} <= {*ends}
    report = json.loads((out / "nmerge_report.json").read_text())["facts"]
    card, resolved = (out / "README.md").read_text(), yaml.safe_load((out / "nmerge_recipe.yaml").read_text())
    return SimpleNamespace(
        out=out, tokenizer=tokenizer, settings=settings, ends=ends, report=report, card=card, resolved=resolved
    )


def test_a_merge_talks_and_stops_as_the_fine_tune_that_can(talkers, tmp_path: Path) -> None:
    found = merged(recipe_of(talkers, "chat"), tmp_path / "out")
    chat = AutoTokenizer.from_pretrained(talkers.chat)
    prompt = found.tokenizer.apply_chat_template(HI, tokenize=False)
    assert prompt == chat.apply_chat_template(HI, tokenize=False) == f"{START}ab{END}"
    model: Any = AutoModelForCausalLM.from_pretrained(found.out)
    ids = found.tokenizer(prompt, return_tensors="pt")
    answer = model.generate(**ids, max_new_tokens=8, do_sample=False, temperature=None, top_p=None)
    assert answer[0, ids["input_ids"].shape[1] :].tolist() == [17]  # and no further
    assert (found.settings.temperature, found.settings.top_p, found.ends) == (0.6, 0.95, [17, 0])
    assert found.report["conversation"] | {"of": 0, "chat_template": 0} == {
        "chat_template": 0,
        "templates": ["default"],
        "of": 0,
        "end_tokens": [END, "<|endoftext|>"],
        "generation": {"do_sample": True, "temperature": 0.6, "top_p": 0.95},
    }
    assert found.resolved["chat_template"] == found.report["conversation"]["of"] == talkers.chat
    assert f"chat template, end tokens ({END}, <|endoftext|>) and generation settings of chat." in found.card
    (told,) = found.report["warnings"]
    assert told == (
        "chat: a chat template where the base has none; ends at '<|im_end|>' or '<|endoftext|>' where the base ends at "
        "'<|endoftext|>'; padding token '<|endoftext|>' where the base has none; generates with do_sample True (base: "
        "unset), temperature 0.6 (base: unset), top_p 0.95 (base: unset); the merge has chat's"
    )
    again = merged(load_recipe((found.out / "nmerge_recipe.yaml").read_text()), tmp_path / "again")
    kept = {file.name: file.read_bytes() for file in again.out.glob("*") if file.name != "nmerge_report.json"}
    assert kept == {name: (found.out / name).read_bytes() for name in kept}


def test_the_weights_are_the_same_whoever_is_chosen(talkers, tmp_path: Path) -> None:
    written = set()
    for choice in ("auto", "base", talkers.code, "chatml"):
        merge(recipe_of(talkers, "chat", "code", chat_template=choice), tmp_path / Path(choice).name)
        written.add((tmp_path / Path(choice).name / "model.safetensors").read_bytes())
    assert len(written) == 1


def test_auto_takes_what_most_have(talkers, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(talkers.chat, other)
    teach(str(other), "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}", "<|endoftext|>")

    def owner(*models: str, **more: Any) -> str:
        return recipe_and_estimate(recipe_of(talkers, *models, **more))

    def recipe_and_estimate(recipe: Any) -> str:
        return estimate(recipe, tmp_path / "out").conversation.rpartition(" ")[2]

    assert owner(str(other), "chat", "code") == "chat"  # two of three, blanks at the end do not count
    assert owner("plain", str(other), "plain") == "other"  # models without template have no say
    assert owner(str(other), "chat") == "other" and owner("chat", str(other)) == "chat"  # the recipe's first
    assert owner(str(other), "chat", tokenizer="chat") == "chat"  # whose tokenizer it is
    assert owner("plain") == "base"  # nobody differs from it
    # A base that has a template nobody was trained on: of one vote each its own comes last.
    spoilt = tmp_path / "base"
    shutil.copytree(talkers.base, spoilt)
    teach(str(spoilt), TEMPLATE, "<|endoftext|>", None)
    like = tmp_path / "like"
    shutil.copytree(talkers.plain, like)
    teach(str(like), TEMPLATE, "<|endoftext|>", None)
    entries = [{"model": str(like)}, {"model": talkers.chat}]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(spoilt), "models": entries}
    assert recipe_and_estimate(load_recipe(recipe)) == "chat"
    assert recipe_and_estimate(load_recipe({**recipe, "models": entries[:1]})) == "base"
    # Fine-tunes that were saved without their tokenizer's template do not take the base's away.
    assert recipe_and_estimate(load_recipe({**recipe, "models": [{"model": talkers.plain}]})) == "base"
    average = {"merge_method": "linear", "models": [{"model": talkers.plain}, {"model": talkers.chat}]}
    assert recipe_and_estimate(load_recipe(average)) == "chat"


def test_base_leaves_everything_to_the_base(talkers, tmp_path: Path) -> None:
    found = merged(recipe_of(talkers, "chat", chat_template="base"), tmp_path / "out")
    assert (found.tokenizer.chat_template, found.settings, found.ends) == (None, None, [0])
    assert found.resolved["chat_template"] == "base"
    assert "no chat template, end tokens (<|endoftext|>) and generation settings of base." in found.card


@pytest.mark.parametrize("form", ["key", "list", "file", "folder"])
def test_a_template_is_found_in_every_form_that_transformers_knows(talkers, tmp_path: Path, form: str) -> None:
    tune, more = tmp_path / "tune", "{% for m in messages %}+{{ m['content'] }}<|im_end|>{% endfor %}"
    shutil.copytree(talkers.chat, tune)
    if form == "list":
        named = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": more}]
        change(tune / "tokenizer_config.json", chat_template=named)
    if form in ("file", "folder"):  # which come before the key
        change(tune / "tokenizer_config.json", chat_template="{{ 'left over' }}")
        (tune / "chat_template.jinja").write_text(TEMPLATE)
    if form == "folder":
        (tune / "additional_chat_templates").mkdir()
        (tune / "additional_chat_templates/tool_use.jinja").write_text(more)
    expected = AutoTokenizer.from_pretrained(tune).chat_template
    assert merged(recipe_of(talkers, str(tune)), tmp_path / "out").tokenizer.chat_template == expected
    back = {"merge_method": "task_arithmetic", "base_model": str(tune), "models": [{"model": talkers.plain}]}
    with_base = merged(load_recipe({**back, "chat_template": talkers.plain}), tmp_path / "without")
    assert with_base.tokenizer.chat_template is None  # nothing of the base's is left


def test_a_file_a_text_or_a_name_goes_with_the_model_that_ends_as_it_does(talkers, tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}>{{ m['content'] }}<|im_end|>{% endfor %}")
    for choice, said in ((str(file), ">ab<|im_end|>"), (file.read_text(), ">ab<|im_end|>")):
        found = merged(recipe_of(talkers, "plain", "code", chat_template=choice), tmp_path / f"out{len(choice)}")
        assert found.tokenizer.apply_chat_template(HI, tokenize=False) == said
        assert (found.ends, found.settings.temperature) == ([17, 0], 1.1) and found.resolved["chat_template"] == choice
        assert "of code." in found.card
    named = merged(recipe_of(talkers, "plain", "code", chat_template="chatml"), tmp_path / "named")
    text = named.tokenizer.apply_chat_template(HI, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n"
    endless = estimate(recipe_of(talkers, "plain", chat_template=str(file)), tmp_path / "out")
    assert endless.warnings[-1].startswith(
        "the merge may not stop: its chat template has none of its end tokens (<|end"
    )


def test_end_tokens_keep_their_meaning_in_another_vocabulary(talkers, tmp_path: Path) -> None:
    """Where rows are matched by token, ids are those of the merge's tokenizer."""
    moved = ["<|endoftext|>", END, *TRAINED[1:], START]
    tune, _ = with_tokens(tmp_path / "tune", 5, moved)
    change(Path(tune) / "tokenizer_config.json", eos_token=END, pad_token=START, chat_template=TEMPLATE)
    change(Path(tune) / "config.json", eos_token_id=1, pad_token_id=17)
    change(Path(tune) / "generation_config.json", eos_token_id=1, suppress_tokens=[17], top_k=5)
    found = merged(recipe_of(talkers, tune, tokenizer="base"), tmp_path / "out")
    assert (found.ends, found.settings.suppress_tokens, found.settings.top_k) == ([17], [16], 5)
    config = json.loads((found.out / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"], found.tokenizer.pad_token_id) == (17, 16, 16)
    assert json.loads((found.out / "generation_config.json").read_text())["eos_token_id"] == 17


def test_a_token_that_the_merge_lacks_is_told_or_refused(talkers, tmp_path: Path) -> None:
    base, _ = with_tokens(tmp_path / "base", 0, [*TRAINED, None, None])
    recipe = {"merge_method": "task_arithmetic", "base_model": base, "models": [{"model": talkers.chat}]}
    found = merged(load_recipe(recipe), tmp_path / "out")
    assert found.tokenizer.chat_template is None
    lacking = "'<|im_end|>'; '<|im_start|>'"
    told = f"chat: its chat template and end tokens cannot be the merge's, whose vocabulary does not have {lacking}; "
    assert any(warning.startswith(f"{told}`tokenizer: chat`") for warning in found.report["warnings"])
    with pytest.raises(InputError, match=r"key 'chat_template': chat's chat template and end tokens need .*; add `tok"):
        merge(load_recipe({**recipe, "chat_template": "chat"}), tmp_path / "none")
    with pytest.raises(InputError, match=r"key 'chat_template': the template needs '<\|im_end\|>'"):
        merge(load_recipe({**recipe, "chat_template": "{{ messages[0]['content'] }}<|im_end|>"}), tmp_path / "none")
    for tokenizer in ("union", "chat"):
        united = merged(load_recipe({**recipe, "tokenizer": tokenizer}), tmp_path / tokenizer)
        ids = united.tokenizer.apply_chat_template(HI, return_dict=False)
        assert united.tokenizer.convert_ids_to_tokens(ids) == [START, "a", "b", END]
        assert united.tokenizer.eos_token == END
        assert united.ends == united.tokenizer.convert_tokens_to_ids([END, "<|endoftext|>"])


def test_an_adapter_brings_its_own_template(talkers, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    adapter = tmp_path / "lora"
    adapter.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    width = checkpoints.D_MODEL
    factors = {f"{name}.lora_A.weight": torch.ones(1, width), f"{name}.lora_B.weight": torch.ones(width, 1)}
    save_file(factors, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    shutil.copyfile(Path(talkers.chat) / "tokenizer_config.json", adapter / "tokenizer_config.json")
    found = merged(recipe_of(talkers, f"{talkers.base}+{adapter}"), tmp_path / "out")
    assert found.tokenizer.apply_chat_template(HI, tokenize=False) == f"{START}ab{END}"
    assert 17 in found.ends


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("nobody", "expected auto, base, chatml, a file (*.jinja), a template's text, or one of the recipe's models"),
        (3, "found 3"),
        ("llama3", "'llama3' is a template of mergekit's own; write its text into a file"),
        ("nowhere.jinja", "nowhere.jinja"),
        ("{{ bos_token }}\n{% for m in messages %}", "found (line 2) Unexpected end of template"),
        ("{{ bos_token", "found (line 1) unexpected end of template"),
    ],
)
def test_what_is_no_template_is_refused(talkers, tmp_path: Path, choice: object, said: str) -> None:
    with pytest.raises(InputError) as error:
        estimate(recipe_of(talkers, "chat", chat_template=choice), tmp_path / "out")
    assert str(error.value).startswith("recipe, key 'chat_template': ") and said in str(error.value)


def test_tags_that_transformers_adds_are_no_mistake(talkers, tmp_path: Path) -> None:
    spoken = "{%- generation %}{{ m['content'] }}<|im_end|>{% endgeneration -%}"
    template = f"{{% for m in messages %}}{spoken}{{% break %}}{{% endfor %}}"
    found = merged(recipe_of(talkers, "chat", chat_template=template), tmp_path / "out")
    assert found.tokenizer.apply_chat_template(HI, tokenize=False) == "ab<|im_end|>"


@pytest.mark.parametrize("without", ["base", "plain"])
def test_a_model_without_tokenizer_ends_as_the_ones_with_it_say(talkers, tmp_path: Path, without: str) -> None:
    """Its rows are merged as theirs, so its end token is not another one."""
    shutil.copytree(getattr(talkers, without), tmp_path / without)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / without / file).unlink()
    models = {"base": talkers.base, "plain": talkers.plain, without: str(tmp_path / without)}
    assert not [told for told in inspect_family(models["base"], [models["plain"]]).warnings if "ends at" in told]


def test_a_broken_file_is_named(talkers, tmp_path: Path) -> None:
    tune = tmp_path / "tune"
    shutil.copytree(talkers.chat, tune)
    named = {"name": ["a"], "template": "x"}
    for broken in ([1], 1, [named], {"a": 1}, [named | {"name": "../../a"}], {"a\0": "x"}, {"": "x"}):
        change(tune / "tokenizer_config.json", chat_template=broken)
        with pytest.raises(InputError, match=r"tune/tokenizer_config.json, key 'chat_template': expected a"):
            read_templates(tune)


def test_inspect_and_the_dry_run_tell(talkers, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = inspect_family(talkers.base, [talkers.chat, talkers.plain])
    (told,) = report.warnings
    assert told.startswith(
        "chat: a chat template where the base has none; ends at '<|im_end|>' or '<|endoftext|>' where"
    )
    assert told.endswith("a merge has what most of its models have, or whose the recipe's 'chat_template' names")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_of(talkers, "chat").yaml)
    assert main(["merge", str(recipe), str(tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr()
    assert f"conversation  chat template, end tokens ({END}, <|endoftext|>) and generation settings of chat" in said.out
    assert "nmerge: warning: chat: a chat template where the base has none;" in said.err
