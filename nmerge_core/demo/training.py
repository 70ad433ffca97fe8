"""How the demo family is trained: one tokenizer, a base on all four kinds of text, and a fine-tune per task."""

import contextlib
import copy
import json
import math
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from nmerge_core.demo.text import CATEGORIES, examples
from nmerge_core.progress import Progress, silent

VOCABULARY = 2048
END = "<|endoftext|>"
ROW = 256  # tokens
POSITIONS = 512  # the longest text the models take, in tokens
ROWS = 8  # rows a step
TOKENIZER_DOCUMENTS = 4000  # of each category


@dataclass(frozen=True)
class Phase:
    """One training run: what share of the documents is of which category, how long, how fast, from which seed."""

    name: str
    mixture: dict[str, float]
    steps: int
    learning_rate: float
    seed: int


PROMPT_WEIGHT = 0.1  # of a prompt's tokens in the loss; an answer's, and all of a general text's, weigh 1
# The base sees all four kinds of text, then more of the word problems, which it learns last.
BASE = (
    Phase("base", {"general": 0.13, "math": 0.42, "code": 0.12, "translation": 0.33}, 1300, 2e-3, seed=0),
    Phase("base, more math", {"general": 0.1, "math": 0.6, "code": 0.12, "translation": 0.18}, 600, 1e-3, seed=4),
)
# A fine-tune keeps some of every other kind of text, so that it forgets little of what the base can do.
FINE_TUNES = tuple(
    Phase(task, {category: 0.7 if category == task else 0.1 for category in CATEGORIES}, 280, 5e-4, seed)
    for seed, task in enumerate(("math", "code", "translation"), start=1)
)


def train_tokenizer() -> Qwen2Tokenizer:
    """A byte-level BPE learnt from the four kinds of text, applied as Qwen2 does: digits are tokens of their own.

    `AutoTokenizer` opens a Qwen2 folder with Qwen2's own splitting into words, whatever its tokenizer.json says, so
    models are trained with it too.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    streams = [examples(category, "train", seed=0) for category in CATEGORIES]
    documents = (next(stream).text for _ in range(TOKENIZER_DOCUMENTS) for stream in streams)
    tokenizer.train_from_iterator(documents, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],  # type: ignore[misc]  # pairs, whatever the annotation says
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def new_model(seed: int) -> Qwen2ForCausalLM:
    """A Qwen2 of 2.6 million parameters with random float32 weights: 4 layers of 768 MLP neurons, grouped queries."""
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=3,
            num_key_value_heads=1,
            max_position_embeddings=POSITIONS,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
    model.set_attn_implementation("eager")  # 1.4 times as fast as the fused kernel on a CPU at this size
    return model


def packed_rows(tokenizer: Qwen2Tokenizer, phase: Phase) -> Iterator[list[tuple[int, float]]]:
    """Endless rows of `ROW` tokens with their weights in the loss.

    A row is whole documents, each with its end token, the last one cut; the next row starts with a new document.
    """
    rng = random.Random(phase.seed)
    streams = {category: examples(category, "train", phase.seed) for category in phase.mixture}
    row: list[tuple[int, float]] = []
    while True:
        picked = rng.choices(list(phase.mixture), list(phase.mixture.values()), k=512)
        documents = [next(streams[category]) for category in picked]
        prompts = tokenizer([document.prompt for document in documents])["input_ids"]
        texts = tokenizer([document.text for document in documents])["input_ids"]
        for prompt, text in zip(prompts, texts, strict=True):
            text = [*text, tokenizer.eos_token_id]
            row += zip(text, [PROMPT_WEIGHT] * len(prompt) + [1.0] * (len(text) - len(prompt)), strict=True)
            if len(row) >= ROW:
                yield row[:ROW]
                row = []


def batch_loss(model: Qwen2ForCausalLM, rows: list[list[tuple[int, float]]]) -> torch.Tensor:
    """The weighted mean cross-entropy of the next tokens of some rows, in nats; a float32 scalar."""
    ids = torch.tensor([[token for token, _ in row] for row in rows], device=model.device)  # (rows, ROW)
    weights = torch.tensor([[weight for _, weight in row] for row in rows], device=model.device)  # (rows, ROW)
    with _precision(model.device):
        logits = model(input_ids=ids).logits  # (rows, ROW, vocabulary)
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none"
    )
    return (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()


def _cosine(step: int, steps: int, warm_up: int) -> float:
    """The share of the peak learning rate: linear warm-up, then a cosine down to 5 %."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bfloat16 matrix products where the hardware has them (a GPU, a CPU with AMX), else plain float32."""
    if device.type == "cpu" and not torch.cpu._is_amx_tile_supported():
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def train(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, phase: Phase, progress: Progress = silent) -> list[float]:
    """Train a model in place by AdamW on the weighted loss of packed rows; returns the loss of every step.

    A cancel raised by `progress` stops between two steps. Repeatable on one machine; another kind of processor rounds
    otherwise and gives other weights of the same quality.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), phase.learning_rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, phase.steps, phase.steps // 20))
    rows = packed_rows(tokenizer, phase)
    losses = []
    model.train()
    for step in range(phase.steps):
        progress(f"training {phase.name}", step, phase.steps, "steps")
        loss = batch_loss(model, [next(rows) for _ in range(ROWS)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
    progress(f"training {phase.name}", phase.steps, phase.steps, "steps")
    model.eval()
    return losses


def train_family(folder: Path, device: str, progress: Progress = silent) -> None:
    """Train the family and write its weights in the layout of nmerge_core/demo/weights.

    `folder` gets <model>/model.safetensors in bfloat16 and, once for all four, config and tokenizer. Fine-tunes start
    from the base as rounded to bfloat16, so that their task vectors are exact differences of what is on disk.
    """
    tokenizer = train_tokenizer()
    tokenizer.save_pretrained(folder)
    base = new_model(seed=0)
    base.to(device)  # type: ignore[arg-type]  # transformers' wrapper of `to` hides its signature
    for phase in BASE:
        train(base, tokenizer, phase, progress)
    _save(base, folder, "base")
    for phase in FINE_TUNES:
        model = copy.deepcopy(base).float()
        train(model, tokenizer, phase, progress)
        _save(model, folder, phase.name)


def _save(model: Qwen2ForCausalLM, folder: Path, name: str) -> None:
    """Round a model to bfloat16 in place and write it; the configuration, the same for all, goes one folder up."""
    model.bfloat16().save_pretrained(folder / name)
    for shared in ("config.json", "generation_config.json"):
        os.replace(folder / name / shared, folder / shared)
