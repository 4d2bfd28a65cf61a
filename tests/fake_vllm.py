"""A stand-in for vLLM 0.33, as far as Accord uses it: the same names and rules, a real (tiny) model behind.

`install(monkeypatch)` puts it into `sys.modules`; `serve(llm)` puts it behind HTTP. It refuses what vLLM
would refuse, and what would go wrong there without a word: sampling while asleep, or with the prompts' keys
and values of earlier weights (which vLLM keeps under an adapter's name). `LLM.skew` makes it another model
than it says: log-probabilities are those of the skewed logits, as with a real mismatch.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel


@dataclass(frozen=True)
class SamplingParams:
    n: int = 1
    seed: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 16
    logprobs: int | None = None
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    detokenize: bool = True


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str
    load_inplace: bool = False


@dataclass(frozen=True)
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass(frozen=True)
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str
    stop_reason: int | None


@dataclass(frozen=True)
class RequestOutput:
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]


def TokensPrompt(prompt_token_ids: list[int]) -> dict[str, list[int]]:
    return {"prompt_token_ids": prompt_token_ids}


@dataclass
class LLM:
    model: str
    dtype: str = "auto"
    gpu_memory_utilization: float = 0.9
    max_num_seqs: int = 256
    logprobs_mode: str = "raw_logprobs"
    enable_sleep_mode: bool = False
    enable_lora: bool = False
    max_loras: int = 1
    max_lora_rank: int = 16
    calls: list[str] = field(default_factory=list)

    skew = 0.0

    def __post_init__(self) -> None:
        if self.max_lora_rank not in (8, 16, 32, 64, 128, 256, 320, 512):
            raise ValueError(f"max_lora_rank {self.max_lora_rank}")
        self.base: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            self.model, dtype=getattr(torch, self.dtype)
        ).eval()
        self.adapters: dict[int, PreTrainedModel] = {}
        self.asleep = False
        self.cached: dict[str, int] = {}  # which weights the cache of each adapter's name was made with
        self.weights = 0

    def sleep(self, level: int = 1) -> None:
        if not self.enable_sleep_mode:
            raise ValueError("Sleep mode is not enabled in the model config")
        assert level == 1 and not self.asleep
        self.asleep = True
        self.cached.clear()
        self.calls.append("sleep")

    def wake_up(self, tags: list[str] | None = None) -> None:
        assert self.asleep
        self.asleep = False
        self.calls.append("wake_up")

    def reset_prefix_cache(self) -> bool:
        self.cached.clear()
        return True

    def collective_rpc(self, method: str, kwargs: Mapping[str, Any]) -> list[None]:
        assert method == "reload_weights" and not self.asleep
        path = Path(kwargs["weights_path"])
        state: dict[str, Tensor] = {}
        for file in path.glob("*.safetensors"):
            state |= load_file(file)
        missing, unexpected = self.base.load_state_dict(state, strict=False)
        assert state and not unexpected and set(missing) <= {"lm_head.weight"}
        self.weights += 1
        self.calls.append("reload_weights")
        return [None]

    def generate(
        self,
        prompts: Sequence[Mapping[str, list[int]]],
        sampling_params: Sequence[SamplingParams],
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
    ) -> list[RequestOutput]:
        assert not self.asleep and len(prompts) == len(sampling_params) <= 10_000
        model, key, made = self.base, "", self.weights
        if lora_request is not None:
            if not self.enable_lora:
                raise ValueError("Got lora_request but LoRA is not enabled!")
            model, key, made = self._adapted(lora_request), lora_request.lora_name, lora_request.lora_int_id
        assert self.cached.setdefault(key, made) == made, "keys and values of earlier weights would be used"
        return [
            RequestOutput(
                prompt["prompt_token_ids"],
                [self._complete(model, prompt["prompt_token_ids"], p, i) for i in range(p.n)],
            )
            for prompt, p in zip(prompts, sampling_params, strict=True)
        ]

    def _adapted(self, request: LoRARequest) -> PreTrainedModel:
        if request.lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {request.lora_int_id}")
        if request.load_inplace or request.lora_int_id not in self.adapters:
            settings = json.loads((Path(request.lora_path) / "adapter_config.json").read_text())
            if settings["r"] > self.max_lora_rank:
                raise ValueError(f"LoRA rank {settings['r']} is greater than max_lora_rank")
            base = AutoModelForCausalLM.from_pretrained(self.model, dtype=self.base.dtype)
            adapted = PeftModel.from_pretrained(base, request.lora_path).eval()
            self.adapters = {request.lora_int_id: adapted}  # max_loras = 1
        return self.adapters[request.lora_int_id]

    @torch.no_grad()
    def _complete(
        self, model: PreTrainedModel, prompt: list[int], params: SamplingParams, index: int
    ) -> CompletionOutput:
        generator = torch.Generator()
        if params.seed is not None:
            generator.manual_seed(params.seed + index)
        ids, found, at = list(prompt), [], []
        while len(found) < params.max_tokens:
            raw_V = model(torch.tensor([ids])).logits[0, -1].double()
            raw_V = raw_V + self.skew * torch.cos(torch.arange(len(raw_V)).double())
            processed_V = raw_V / (params.temperature or 1.0)
            processed_V = _nucleus(processed_V, params.top_p)
            best = int(processed_V.argmax())
            drawn = int(torch.multinomial(processed_V.softmax(-1), 1, generator=generator))
            token = drawn if params.temperature else best
            told_V = processed_V if self.logprobs_mode == "processed_logprobs" else raw_V
            at.append({token: Logprob(float(told_V.log_softmax(-1)[token]))})
            found.append(token)
            ids.append(token)
            eos = not params.ignore_eos and token == self.base.config.eos_token_id
            if eos or token in params.stop_token_ids:
                return CompletionOutput(index, "", found, at, "stop", None if eos else token)
        return CompletionOutput(index, "", found, at, "length", None)


def _nucleus(logits_V: Tensor, top_p: float) -> Tensor:
    sorted_V, order_V = logits_V.softmax(-1).sort(descending=True)
    dropped_V = order_V[(sorted_V.cumsum(-1) - sorted_V) >= top_p] if top_p < 1 else order_V[:0]
    return logits_V.index_fill(0, dropped_V, -torch.inf)


def install(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`import vllm` finds the fake from now on; returns it."""
    vllm, lora, request = (ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request"))
    for kind in (LLM, SamplingParams, TokensPrompt):
        setattr(vllm, kind.__name__, kind)
    request.LoRARequest = LoRARequest  # type: ignore[attr-defined]
    for module in (vllm, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(LLM, "skew", 0.0)
    return vllm


COMPLETION = {"model", "prompt", "return_token_ids"} | {
    *("n", "seed", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens"),
    *("logprobs", "stop_token_ids", "ignore_eos"),
}


@contextmanager
def serve(llm: LLM) -> Iterator[str]:
    """The address of a server with this model, in development mode and with adapters at run time."""
    lora: dict[str, LoRARequest] = {}
    lock = threading.Lock()

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, {"data": [{"id": llm.model}, *({"id": name} for name in lora)]}
        if path == "/v1/load_lora_adapter":
            name = body["lora_name"]
            if name in lora and not body.get("load_inplace"):
                return 400, {"error": {"message": f"The lora adapter '{name}' has already been loaded."}}
            lora[name] = LoRARequest(name, 1, body["lora_path"], load_inplace=True)
            llm.adapters.clear()
            llm.weights += 1
            llm.cached = dict.fromkeys(llm.cached, -1)
            return 200, "Success: LoRA adapter added."
        if path == "/collective_rpc":
            return 200, {"results": llm.collective_rpc(body["method"], body["kwargs"])}
        if path == "/reset_prefix_cache":
            return 200, llm.reset_prefix_cache()
        if path == "/v1/completions" and (body["model"] in lora or body["model"] == llm.model):
            assert set(body) <= COMPLETION, set(body) - COMPLETION
            given = {k: v for k, v in body.items() if k not in ("model", "prompt", "return_token_ids")}
            request = lora.get(body["model"])
            if request is not None and llm.adapters:  # loaded since
                request = LoRARequest(request.lora_name, 1, request.lora_path)
            prompt = TokensPrompt(body["prompt"])
            (out,) = llm.generate([prompt], [SamplingParams(**given)], lora_request=request)
            return 200, {"choices": [_choice(c, body) for c in reversed(out.outputs)]}
        return 404, {"error": {"message": f"{path}: no such route or model"}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _reply(self, body: dict[str, Any]) -> None:
            try:
                with lock:
                    status, found = answer(self.path, body)
            except Exception as error:  # as vLLM: 500, and the reason
                status, found = 500, {"error": {"message": repr(error)}}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


def _choice(output: CompletionOutput, body: Mapping[str, Any]) -> dict[str, Any]:
    assert output.logprobs is not None
    logps = [at[token].logprob for token, at in zip(output.token_ids, output.logprobs, strict=True)]
    return {
        "index": output.index,
        "token_ids": output.token_ids if body.get("return_token_ids") else None,
        "logprobs": {"token_logprobs": logps},
        "finish_reason": output.finish_reason,
    }
