"""Models as they are: what their headers say, how they score, and what they answer."""

from nmerge_core.checkpoints import inspect_family
from nmerge_core.face.calls import Models, Reference, References, do, named, named_once
from nmerge_core.face.losses import Losses
from nmerge_core.face.results import Inspection, merged_of
from nmerge_core.face.scores import Scores
from nmerge_core.parameters.settings import (
    ALLOW_TASK_CODE,
    BACKEND,
    CHAT_TEMPLATE,
    DECODING,
    DEVICE,
    EVALUATE_BATCH,
    EVALUATE_SEED,
    LIMIT,
    MAX_LENGTH,
    RUN_CODE,
    RUN_DTYPE,
    SHOTS,
)
from nmerge_core.runs import short_questions


def inspect(models: Models) -> Inspection:
    """Read the headers of models and tell whether they can be merged; the first is the base.

    Args:
        models: model folders or Hub ids, or MODEL+ADAPTER.
    """
    names, (base, *others) = named_once(models)
    return Inspection(inspect_family(base, others), dict(zip([base, *others], names, strict=True)))


def evaluate(
    models: Models,
    tasks: References,
    *,
    limit: int | None = LIMIT.default,
    shots: int | None = SHOTS.default,
    chat_template: bool = CHAT_TEMPLATE.default,
    decoding: str = DECODING.default,
    batch_size: int | str = EVALUATE_BATCH.default,
    seed: int = EVALUATE_SEED.default,
    run_code: bool = RUN_CODE.default,
    allow_task_code: bool = ALLOW_TASK_CODE.default,
    device: str = DEVICE.default,
    run_dtype: str = RUN_DTYPE.default,
    backend: str = BACKEND.default,
    progress: bool = True,
) -> Scores:
    """Score models on tasks by lm-evaluation-harness.

    Args:
        models: model folders or Hub ids, or what `merge` gave.
        tasks: task YAMLs, tasks of the demo family (math, code, translation, general), or lm-eval names.
        limit: only the first so many problems of each task.
        shots: solved examples before each problem; as many as the task says by default.
        chat_template: ask each problem as a turn of the model's chat template, the examples as turns before it.
        decoding: "alike", greedily unless the task draws and without a checkpoint's penalties; or "own", by each
            checkpoint's own generation_config.json, as lm-eval does.
        batch_size: texts a batch, or "auto"; halved when they do not fit in memory.
        seed: decides which examples stand before problems, and what a task draws.
        run_code: let tasks run the code that a model writes, in the sandbox.
        allow_task_code: let tasks run code of their own, outside of any sandbox: read it first.
        device: "auto", "cpu", "cuda:1", ….
        run_dtype: the number format the models run in.
        backend: "transformers", or "vllm" where it is installed, which serves written checkpoints on an accelerator.
        progress: whether it is shown.

    Raises:
        InputError: a task cannot be loaded or scored, or its problems are longer than a model takes.
    """
    names, references = named(models)
    # A run each: a model that was scored before is not scored again beside others.
    runs = [
        do(
            "evaluate",
            progress,
            models=[model],
            tasks=tasks,
            limit=limit,
            shots=shots,
            chat_template=chat_template,
            decoding=decoding,
            batch_size=batch_size,
            seed=seed,
            run_code=run_code,
            allow_task_code=allow_task_code,
            device=device,
            run_dtype=run_dtype,
            backend=backend,
        )
        for model in references
    ]
    return Scores(tuple(run.results for run in runs), tuple(names), merged_of(names, references))


def loss(
    models: Models,
    corpus: Reference,
    *,
    max_length: int = MAX_LENGTH.default,
    device: str = DEVICE.default,
    run_dtype: str = RUN_DTYPE.default,
    progress: bool = True,
) -> Losses:
    """Compute the loss of models on the held-out texts of each category of a corpus: a judgement that needs no task.

    Of `corpus[:-60]` the held-out texts are the last 60 of each category, which nothing has seen that reads the corpus
    by that name. A whole corpus holds out nothing: a fifth of its texts is taken, which a classification or
    coefficients of it have seen too.

    Args:
        models: model folders or Hub ids, or what `merge` gave.
        corpus: a folder with one JSONL file per category, or a YAML of sources, or a slice of it.
        max_length: tokens of a text that are read.
        device: "auto", "cpu", "cuda:1", ….
        run_dtype: the number format the models run in.
        progress: whether it is shown.

    Raises:
        InputError: there is no such corpus, a text has no tokens, or a loss is not finite.
    """
    names, references = named(models)
    asked = {"corpus": corpus, "max_length": max_length, "device": device, "run_dtype": run_dtype}
    runs = [do("loss", progress, models=[model], **asked) for model in references]
    return Losses(tuple(run.results for run in runs), tuple(names), merged_of(names, references))


def generate(models: Models, prompt: str, *, max_new_tokens: int = 64) -> dict[str, str]:
    """Let models continue a text, the most likely token at a time; they stay in memory for further questions.

    Args:
        models: model folders or Hub ids, or what `merge` gave.
        prompt: the beginning of the text.
        max_new_tokens: tokens to add at most.
    """
    names, references = named(models)
    return {
        name: short_questions.generate(model, prompt, max_new_tokens)
        for name, model in zip(names, references, strict=True)
    }
