"""A loaded model as lm-evaluation-harness wants it: its HFLM, which reports progress and stops each text on its own."""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from nmerge_core.loading import LanguageModel
from nmerge_core.progress import Progress


class Harness(HFLM):
    """lm-eval's view of a model in memory; every batch and every generated token reports, so all can be cancelled."""

    def __init__(self, language_model: LanguageModel, batch_size: int, stage: str, progress: Progress) -> None:
        """Wrap the model; `stage` is the name under which progress is reported."""
        super().__init__(pretrained=language_model.model, tokenizer=language_model.tokenizer, batch_size=batch_size)
        self._stage, self._progress = stage, progress
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
        return super().generate_until(requests, disable_tqdm)

    def tok_batch_encode(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Encode and pad texts; padding, which is masked, is token 0: a tokenizer's own may be unknown to the model."""
        tokens, mask = super().tok_batch_encode(*args, **kwargs)  # (B, T), (B, T)
        return tokens * mask, mask

    def _begin(self, requests: Sequence[Instance]) -> None:
        self._done, self._total = 0.0, len(requests)
        self._report(0)

    def _report(self, extra: float) -> None:
        self._progress(self._stage, min(self._done + extra, self._total), self._total, "requests")

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None) -> Any:
        return super()._loglikelihood_tokens(requests, True, override_bs)

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        logits = super()._model_call(inps, attn_mask, labels)  # (B, T, vocabulary)
        self._done += len(inps)
        self._report(0)
        return logits

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **kwargs: Any) -> Tensor:
        batch, prompt = context.shape
        if not kwargs.get("do_sample"):
            kwargs = {**kwargs, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}

        def report(tokens: int) -> None:
            self._report(batch * tokens / (max_length - prompt))

        # lm-eval's own criteria let a batch end only when all its texts meet the same stop at once.
        criteria = StoppingCriteriaList([_Stop(self.tokenizer, stop, prompt, report)])
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
