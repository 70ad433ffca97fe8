"""A loaded model as lm-evaluation-harness wants it: its HFLM, which reports progress and stops each text on its own."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from nmerge_core.errors import InputError, out_of_memory
from nmerge_core.evaluation.answer_ends import answer_ends
from nmerge_core.loading import LanguageModel
from nmerge_core.machine import CPU
from nmerge_core.parameters.settings import ALIKE
from nmerge_core.progress import Progress

_BATCH, _CPU_BATCH = 256, 64  # texts that a batch found by itself begins with
_CPU_LOGITS = 1 << 28  # numbers of a batch's logits on a CPU, where too many end the process; lm-eval has them twice
SEQ2SEQ = "seq2seq"  # what lm-eval calls a model that reads the prompt by an encoder, and answers by a decoder
_BEGINS = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id")  # how an answer begins, as it was trained
Answer = TypeVar("Answer")


class Harness(HFLM):
    """lm-eval's view of a model in memory; every batch and every generated token reports, so all can be cancelled.

    A batch that does not fit in memory is halved, and what was answered before stays.
    """

    batch_size_per_gpu: int  # lm-eval's name of the batch size in force

    def __init__(
        self,
        language_model: LanguageModel,
        batch_size: int | str,
        stage: str,
        progress: Progress,
        *,
        decoding: str = ALIKE,
        chat_template: bool = False,
    ) -> None:
        """Wrap the model; `stage` is the name under which progress is reported.

        Raises:
            InputError: a chat template is asked for, and the model has none.
        """
        self._by_itself = batch_size == "auto"
        largest = _CPU_BATCH if language_model.device.type == CPU else _BATCH
        super().__init__(
            pretrained=language_model.model,
            tokenizer=language_model.tokenizer,
            batch_size=largest if self._by_itself else batch_size,
            softmax_dtype="float32",  # in bfloat16 the log-likelihood of a long text is rounded by up to 0.4 %
        )
        if chat_template and not self.tokenizer.chat_template:
            raise InputError(f"{language_model.label}: has no chat template; score it without one")
        self._language_model, self.stage, self.progress = language_model, stage, progress
        self._alike, self._ends = decoding == ALIKE, answer_ends(language_model, chat=chat_template)
        self._done, self._total = 0.0, 0

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Score continuations of contexts."""
        self._begin(requests)
        return super().loglikelihood(requests, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Score whole texts."""
        self._begin(requests)
        return super().loglikelihood_rolling(requests, disable_tqdm)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Continue contexts."""
        self._begin(requests)
        answer = super().generate_until
        return self._halving(requests, lambda each: each.args, lambda left: answer(left, disable_tqdm))

    def tok_batch_encode(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Encode and pad texts; a padding token that the model does not know, as it is masked, becomes token 0."""
        tokens, mask = super().tok_batch_encode(*args, **kwargs)  # (B, T), (B, T)
        known = self.model.get_input_embeddings().num_embeddings
        return torch.where((mask == 0) & (tokens >= known), 0, tokens), mask

    def _begin(self, requests: Sequence[Instance]) -> None:
        self._done, self._total = 0.0, len(requests)
        self._report(0)

    def _report(self, extra: float) -> None:
        self.progress(self.stage, min(self._done + extra, self._total), self._total, "requests")

    def _halving(
        self, requests: Sequence[Any], name: Callable[[Any], Any], answer: Callable[[list[Any]], list[Answer]]
    ) -> list[Answer]:
        """Return the answers to requests; where memory is short the batch is halved for those without an answer yet.

        lm-eval tells each answer of a batch by what `name` gives of its request, as it comes.
        """
        found: dict[int, Answer] = {}
        while True:
            left = [place for place in range(len(requests)) if place not in found]
            self.cache_hook = told = _Told()
            try:
                found |= zip(left, answer([requests[place] for place in left]), strict=True)
                return [found[place] for place in range(len(requests))]
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            # Only here its frames, which held what fills the memory, are gone.
            torch.cuda.empty_cache()
            if self.batch_size_per_gpu == 1:
                raise InputError(f"{self.stage}: a single text does not fit in the memory of {self.device}")
            self.batch_size_per_gpu //= 2
            for place in left:
                if answers := told.answers[repr(name(requests[place]))]:
                    found[place] = answers.pop(0)

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None) -> Any:
        if self._by_itself and self.device.type == CPU:
            longest = max(len(context) + len(rest) for _, context, rest in requests)
            fits = max(1, _CPU_LOGITS // (longest * self.model.get_input_embeddings().num_embeddings))
            self.batch_size_per_gpu = min(self.batch_size_per_gpu, fits)
        answer = super()._loglikelihood_tokens
        return self._halving(requests, lambda each: each[0], lambda left: answer(left, True, override_bs))

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        logits = super()._model_call(inps, attn_mask, labels)  # (B, T, vocabulary)
        self._done += len(inps)
        self._report(0)
        return logits

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **kwargs: Any) -> Tensor:
        batch = len(context)
        prompt = 1 if self.backend == SEQ2SEQ else context.shape[1]  # what a decoder begins with
        if not kwargs.get("do_sample"):
            kwargs = {**kwargs, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}

        def report(tokens: int) -> None:
            self._report(batch * tokens / (max_length - prompt))

        # lm-eval's own criteria let a batch end only when all its texts meet the same stop at once.
        criteria = StoppingCriteriaList([_Stop(self.tokenizer, stop, prompt, report)])
        with self._settings():
            tokens = self.model.generate(
                input_ids=context,
                max_length=max_length,
                stopping_criteria=criteria,
                pad_token_id=self.eot_token_id,
                use_cache=True,
                **kwargs,
            )
        self._done += batch
        self._report(0)
        return tokens  # (B, T)

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """Decode without the checkpoint's settings of generation but for its end tokens, unless they are wanted.

        They stand in the model: `generate` takes from there whatever it is not told.
        """
        own = self.model.generation_config
        if self._alike:
            begins = {name: getattr(own, name, None) for name in _BEGINS}
            self.model.generation_config = GenerationConfig(eos_token_id=self._ends, **begins)
        try:
            yield
        finally:
            self.model.generation_config = own


class _Told:
    """What lm-eval hands to its cache of answers: each as soon as it is there."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = defaultdict(list)

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        """Keep an answer."""
        self.answers[repr(request)].append(answer)


class _Stop(StoppingCriteria):
    """Ends each text of a batch as soon as its continuation holds one of the stop strings."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], prompt: int, report: Any) -> None:
        self._tokenizer, self._stop, self._prompt, self._report = tokenizer, stop, prompt, report
        # A token is at least a byte long: a stop string that has just been completed lies within this many tokens.
        self._window = max((len(text.encode()) for text in stop), default=0)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        new = input_ids[:, self._prompt :]  # (B, T)
        self._report(new.shape[1])
        tails = self._tokenizer.batch_decode(new[:, -self._window :])
        stopped = [any(text in tail for text in self._stop) for tail in tails]
        return torch.tensor(stopped, device=input_ids.device)
