"""A server on this machine that speaks OpenAI's chat completions, and a tiny chat model."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}> {% endif %}"
Status = int | tuple[int, dict[str, str]]


@dataclass
class Chat:
    """What a server was asked, and what it says: `refuse` tells the status of the n-th request, 200 by default."""

    say: Callable[[str], str]
    refuse: Callable[[int], Status] = lambda number: 200
    key: str = ""
    says: str = ""  # where it refuses; else the status
    address: str = ""
    requests: list[tuple[str, str, Any]] = field(default_factory=list)  # path, authorization, content

    @property
    def prompts(self) -> list[str]:
        """The text of each request."""
        return [content["messages"][0]["content"] for _, _, content in self.requests]


@contextmanager
def serve_chat(say: Callable[[str], str]) -> Iterator[Chat]:
    """Serve completions on this machine: `say` answers a prompt; tokens are counted as words."""
    chat = Chat(say)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            chat.requests.append((self.path, self.headers.get("Authorization", ""), content))
            status = chat.refuse(len(chat.requests))
            code, headers = status if isinstance(status, tuple) else (status, {})
            if chat.key and self.headers.get("Authorization") != f"Bearer {chat.key}":
                code = 401
            [message] = content["messages"]
            said = chat.say(message["content"])
            body: Any = {"error": {"message": chat.says or f"refused with {code}"}}
            if code == 200:
                used = {
                    "prompt_tokens": len(message["content"].split()),
                    "completion_tokens": len(said.split()),
                }
                body = {"choices": [{"message": {"role": "assistant", "content": said}}], "usage": used}
            sent = json.dumps(body).encode()
            self.send_response(code)
            for name, value in {"Content-Length": str(len(sent)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    chat.address = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()


def tiny_chat_model(folder: Path, *, positions: int = 4096) -> str:
    """Save a random model of one layer that has a chat template; a token is a byte."""
    torch.manual_seed(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({"<eos>": 0} | {token: id for id, token in enumerate(alphabet, start=1)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", chat_template=TEMPLATE)
    fast.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=257,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)
