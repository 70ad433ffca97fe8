"""A small labeller, trained on this machine to answer what `nmerge label` asks, where no chat model can be had.

    python -m benchmarks.label BASE TEXTS OUT            # TEXTS has one <category>.jsonl per category

It starts from BASE, a small language model, and learns to tell whose texts excerpts are, as random tokens of them are
marked. So it knows kinds of text, and nothing of neurons: what it says of one shows that the whole procedure works, and
how far the kinds of the texts, which frequency labels count too, can be told from 32 tokens. Texts of TEXTS must not be
those that the neurons are classified by. Minutes for a few million parameters on two cores.
"""

import argparse
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.labelling.prompts import detection_prompt, label_prompt
from nmerge_core.labelling.shown import AFTER, BEFORE, HELD_OUT, SHOWN, Excerpt
from nmerge_core.loading import LanguageModel, load_model
from nmerge_core.progress import TerminalProgress

POSITIONS = 2048
_TURNS = "{% for message in messages %}{{ message.content }}\n\n{% endfor %}"
TEMPLATE = _TURNS + "{% if add_generation_prompt %}Reply:\n{% endif %}"
DETECTIONS = 0.3  # share of the questions that ask which texts excite a neuron


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("texts")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rows", type=int, default=6, help="questions a step")
    parser.add_argument("--rate", type=float, default=1e-3)
    given = parser.parse_args()
    train(given.base, given.texts, given.out, given.steps, given.rows, given.rate)


def train(base: str, texts: str, out: Path, steps: int, rows: int, rate: float) -> None:
    """Train a copy of a base on answers to questions about a corpus's texts, and save it as a chat model."""
    learner = load_model(base, "cpu", "float32")
    model, tokenizer = learner.model, learner.tokenizer
    model.config.max_position_embeddings = tokenizer.model_max_length = POSITIONS
    tokenizer.chat_template = TEMPLATE
    corpus = load_corpus(texts)
    read = {name: [each.text for each in corpus.exemplars if each.category == name] for name in corpus.categories}
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    generator, progress = random.Random(0), TerminalProgress()
    model.train()
    for step in range(steps):
        most = min(SHOWN, 2 + 2 * SHOWN * step // steps)  # excerpts of a question: few at first
        questions = [question(learner, read, generator.randint(min(2, most), most), generator) for _ in range(rows)]
        loss = loss_of(model, [encoded(tokenizer, *each) for each in questions])
        progress(f"training, loss {loss.item():.3f}", step, steps, "steps")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.eval().save_pretrained(out)
    tokenizer.save_pretrained(out)


def question(
    learner: LanguageModel, texts: Mapping[str, Sequence[str]], excerpts: int, generator: random.Random
) -> tuple[str, str]:
    """Make up a neuron that fires on random tokens, mostly in one kind of text; return what is asked and the answer."""
    categories = list(texts)
    own = generator.choice(categories)
    if generator.random() < DETECTIONS:
        count = min(excerpts, 2 * HELD_OUT)
        others = [each for each in categories if each != own]
        kinds = [own if generator.random() < 0.5 else generator.choice(others) for _ in range(count)]
        shown = [excerpt(learner, generator.choice(texts[kind]), generator).text for kind in kinds]
        hits = ", ".join(str(number) for number, kind in enumerate(kinds, 1) if kind == own)
        return detection_prompt(f"texts of {own}", shown), f"texts: {hits or 'none'}"
    kinds = [own if generator.random() < 0.5 else generator.choice(categories) for _ in range(excerpts)]
    shown = [excerpt(learner, generator.choice(texts[kind]), generator).marked for kind in kinds]
    lines = [f"{number}: {kind} 5" for number, kind in enumerate(kinds, 1)]
    most = max(categories, key=kinds.count)
    return label_prompt(categories, shown), "\n".join([*lines, f"fires on: texts of {most}"])


def excerpt(learner: LanguageModel, text: str, generator: random.Random) -> Excerpt:
    """Cut as many tokens out of a text as excerpts have, and mark some."""
    ids = learner.tokenizer(text[:4000])["input_ids"]
    peak = generator.randrange(len(ids))
    pieces = [str(learner.tokenizer.decode([token])) for token in ids[max(0, peak - BEFORE) : peak + AFTER + 1]]
    share = generator.choice((0.1, 0.3, 0.6))
    return Excerpt(tuple(pieces), tuple(generator.random() < share for _ in pieces))


def encoded(tokenizer: Any, asked: str, answer: str) -> tuple[list[int], int]:
    """Return the tokens of a question with its answer, and how many are the question's."""
    turn = [{"role": "user", "content": asked}]
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=True)
    reply = tokenizer(answer)["input_ids"]
    return [*prompt["input_ids"], *reply, tokenizer.eos_token_id], len(prompt["input_ids"])


def loss_of(model: Any, rows: Sequence[tuple[list[int], int]]) -> torch.Tensor:
    """Return the mean cross-entropy of the answers' tokens, in nats."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([own + [0] * (longest - len(own)) for own, _ in rows])  # (rows, T)
    place = torch.arange(longest)
    answers = torch.stack([(place >= start) & (place < len(own)) for own, start in rows])  # (rows, T)
    hidden = model.base_model(input_ids=ids).last_hidden_state[:, :-1][answers[:, 1:]]  # (answers' tokens, d_model)
    return torch.nn.functional.cross_entropy(model.lm_head(hidden), ids[:, 1:][answers[:, 1:]])


if __name__ == "__main__":
    main()
