"""Sampling with vLLM (Kwon et al. 2023), in this process or on a server.

What passes to and fro is plain: prompts as token ids, answers as token ids with their log-probabilities, and
new weights as files that vLLM reads, an adapter (a peft folder) or a whole model. Files need neither a common
process group nor the same device, and the two kinds of vLLM then do the same.

Names and fields are those of vLLM 0.33: `LLM.generate`, `collective_rpc("reload_weights", weights_path=...)`
(since 0.16), `LoRARequest`, sleep mode; on a server /v1/completions with `return_token_ids`,
/v1/load_lora_adapter, and the development routes /collective_rpc and /reset_prefix_cache.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from transformers import PreTrainedModel

from accord.errors import ConfigError, ModelError, NumericsError
from accord.models.adapters import Trunk
from accord.models.quiet import quietly
from accord.records import Completion, Group, Prompt, Sampling
from accord.rollout.local import Renders, end_ids, fitting_prompt
from accord.rollout.sampler import Progress, check_sampling

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM takes for max_lora_rank
ADAPTER = "accord-policy"  # the policy's adapter on a server, replaced in place
TIMEOUT = 1800.0  # seconds that a server may take for an answer, or for reading weights


@dataclass(frozen=True)
class Answer:
    """What vLLM says of one answer: its tokens, and their log-probabilities as it computed them."""

    token_ids: tuple[int, ...]
    logps: tuple[float, ...]


@dataclass(frozen=True)
class Ask:
    """One prompt with the settings of its answers, by the names that both kinds of vLLM share."""

    prompt_ids: tuple[int, ...]
    settings: Mapping[str, Any]


class Served(Protocol):
    """A vLLM that answers. `adapter`: new weights come as peft adapters on its model, not as whole models."""

    adapter: bool

    def load(self, folder: Path, version: str) -> None:
        """From now on answer with the weights in `folder`."""
        ...

    def answer(self, asks: Sequence[Ask], done: Callable[[int], None]) -> list[list[Answer]]:
        """Each ask's answers in order; `done` is told how many asks have been answered."""
        ...


class VllmSampler:
    """Samples with a vLLM, and tells it the policy's new weights.

    An answer is a function of (weights, prompt, sampling, sample index) up to vLLM's own rounding, which
    depends on what else is in its batch: a resumed run need not draw the same answers. `model` is the
    trainer's own: only its configuration is read. Log-probabilities are vLLM's, of softmax(logits /
    temperature) over the whole vocabulary; they differ from the trainer's, so weigh them
    (`importance_sampling_cap`).
    """

    def __init__(
        self, served: Served, model: PreTrainedModel, renderer: Renders, *, policy_version: str, folder: Path
    ) -> None:
        """`folder` is where weights are handed over; a server must see it, too."""
        self.served, self.model, self.renderer = served, model, renderer
        self.policy_version, self.folder = policy_version, folder
        self.weights: tempfile.TemporaryDirectory[str] | None = None  # vLLM reads adapters when first used

    def refresh(self, trunk: Trunk, name: str, version: str) -> None:
        """From now on sample from the trunk with adapter (or full copy) `name`. One version is sent once."""
        if version == self.policy_version:
            return
        self.policy_version = version
        self.folder.mkdir(parents=True, exist_ok=True)
        weights = tempfile.TemporaryDirectory(prefix=".vllm-", dir=self.folder)
        path = Path(weights.name).resolve()
        try:
            with quietly():
                if self.served.adapter:
                    trunk.save_adapter(name, path)
                else:
                    with trunk.use(name) as model:
                        model.save_pretrained(path)
        except OSError as error:
            raise ModelError(
                f"{path}: the weights for vLLM could not be written ({error}); make room and run again"
            ) from error
        self.served.load(path, version)
        if self.weights is not None:
            self.weights.cleanup()
        self.weights = weights

    def sample(
        self, prompts: Sequence[Prompt], k: int, sampling: Sampling, *, on_progress: Progress | None = None
    ) -> list[Group]:
        """One group of k completions per prompt, in the order of `prompts`; as `LocalSampler.sample`.

        Raises ConfigError (k or sampling out of range), DataError (a prompt leaves no room for the answer),
        ModelError (vLLM refuses) and NumericsError (log-probabilities that are not finite).
        """
        check_sampling(k, sampling)
        if sampling.top_p < 1 and sampling.temperature != 1:
            raise ConfigError(
                f"top_p {sampling.top_p} at temperature {sampling.temperature}: vLLM then gives no "
                "log-probabilities over the whole vocabulary, which the update needs; set top_p or "
                "temperature to 1"
            )
        distinct = {prompt.id: prompt for prompt in prompts}
        ends = end_ids(self.model, self.renderer)
        asks = [
            Ask(
                fitting_prompt(self.model, self.renderer, prompt, sampling.max_new_tokens),
                _settings(prompt, k, sampling, ends),
            )
            for prompt in distinct.values()
        ]

        def done(count: int) -> None:
            if on_progress is not None:
                on_progress(count * k, len(asks) * k)

        answered = self.served.answer(asks, done) if asks else []
        groups = {
            prompt.id: Group(
                prompt, tuple(self._completion(prompt, i, a, sampling, ends) for i, a in enumerate(answers))
            )
            for prompt, answers in zip(distinct.values(), answered, strict=True)
        }
        for prompt_id, group in groups.items():
            if len(group.completions) != k:
                raise ModelError(
                    f"vLLM gave {len(group.completions)} answers to prompt {prompt_id} instead of {k}"
                )
        return [Group(prompt, groups[prompt.id].completions) for prompt in prompts]

    def _completion(
        self, prompt: Prompt, index: int, answer: Answer, sampling: Sampling, ends: frozenset[int]
    ) -> Completion:
        if not answer.token_ids or not all(map(math.isfinite, answer.logps)):
            raise NumericsError(
                f"vLLM's answer {index} of policy {self.policy_version!r} to prompt {prompt.id} is empty or "
                "has log-probabilities that are not finite: the weights have diverged, go back to an "
                "earlier checkpoint and lower the learning rate"
            )
        return Completion(
            prompt.id,
            self.renderer.text(answer.token_ids),
            answer.token_ids,
            answer.logps,
            self.policy_version,
            sampling,
            "stop" if answer.token_ids[-1] in ends else "length",
            index,
        )


def _settings(prompt: Prompt, k: int, sampling: Sampling, ends: frozenset[int]) -> dict[str, Any]:
    """All that decides a draw: a server fills in the rest from the model's generation_config.json."""
    digest = hashlib.blake2b(f"{sampling.seed}/{prompt.id}".encode(), digest_size=6).digest()
    return {
        "n": k,
        "seed": int.from_bytes(digest, "little"),  # vLLM draws the i-th answer with seed + i
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": sampling.max_new_tokens,
        "logprobs": 0,  # of the drawn token alone
        "stop_token_ids": sorted(ends),
        "ignore_eos": True,  # the list above is the whole truth
    }


# ------------------------------------------------------------------------------------------ in this process


def import_vllm() -> ModuleType:
    """The vllm package. Raises ConfigError with what to install where there is none."""
    try:
        import vllm
    except ImportError as error:
        raise ConfigError(
            f"sampler: vllm needs the package vllm ({error}); pip install 'accord-rlhf[vllm]' on a machine "
            "with a GPU, or give the address of a server with --vllm_server, or use sampler: local"
        ) from error
    return vllm  # type: ignore[no-any-return]


class Colocated:
    """A vLLM in this process, which shares the GPU: it sleeps whenever it is not sampling.

    `base` is a folder with the base model, kept while this lives. `memory` is vLLM's share of the GPU while
    it is awake. `rank` is that of the adapters that will come, or None where whole models will. Asleep
    (level 1), its weights wait in the machine's memory and its cache is gone.
    """

    def __init__(
        self,
        base: tempfile.TemporaryDirectory[str],
        *,
        dtype: str,
        memory: float,
        rows: int,
        rank: int | None,
        raw: bool,
        sleep: bool,
    ) -> None:
        """`raw`: log-probabilities at temperature 1 before top_p. Raises ConfigError and ModelError."""
        self.vllm, self.sleeps, self.adapter = import_vllm(), sleep, rank is not None
        lora = {"enable_lora": True, "max_loras": 1, "max_lora_rank": lora_rank(rank)} if rank else {}
        try:
            self.llm = self.vllm.LLM(
                model=base.name,
                dtype=dtype,
                gpu_memory_utilization=memory,
                max_num_seqs=rows,
                logprobs_mode="raw_logprobs" if raw else "processed_logprobs",
                enable_sleep_mode=sleep,
                **lora,
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise ModelError(
                f"vLLM could not open the policy ({error}); lower --vllm_memory ({memory}) if it asks for "
                "memory, or use sampler: local"
            ) from error
        self.base = base
        self.lora: Any = None
        self.loads = 0
        self._rest()

    def load(self, folder: Path, version: str) -> None:
        self.loads += 1
        if self.adapter:  # its weights are kept under the number, and prompts' keys and values under the name
            from vllm.lora.request import LoRARequest

            self.lora = LoRARequest(version, self.loads, str(folder))
            return
        self._wake()
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self.llm.reset_prefix_cache()
        self._rest()

    def answer(self, asks: Sequence[Ask], done: Callable[[int], None]) -> list[list[Answer]]:
        self._wake()
        outputs = self.llm.generate(
            [self.vllm.TokensPrompt(prompt_token_ids=list(ask.prompt_ids)) for ask in asks],
            [self.vllm.SamplingParams(detokenize=False, **ask.settings) for ask in asks],
            use_tqdm=False,
            lora_request=self.lora,
        )
        self._rest()
        done(len(asks))
        return [[_read(answer) for answer in output.outputs] for output in outputs]

    def _wake(self) -> None:
        if self.sleeps:
            self.llm.wake_up()

    def _rest(self) -> None:
        if self.sleeps:
            self.llm.sleep(level=1)


def lora_rank(rank: int) -> int:
    """The least of vLLM's ranks that holds adapters of this one."""
    found = next((r for r in LORA_RANKS if r >= rank), None)
    if found is None:
        raise ConfigError(f"lora.r is {rank}, and vLLM takes at most {LORA_RANKS[-1]}; lower it")
    return found


def _read(output: Any) -> Answer:
    ids = tuple(output.token_ids)
    logps = tuple(float(at[token].logprob) for token, at in zip(ids, output.logprobs, strict=True))
    return Answer(ids, logps)


# ----------------------------------------------------------------------------------------------- on a server


class Server:
    """A vLLM server, started for instance by

        VLLM_SERVER_DEV_MODE=1 VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL \\
          --logprobs-mode processed_logprobs --enable-lora --max-lora-rank 16

    with the model that the policy starts from (docs/vllm.md). It must see the files that it is told to read.
    In this mode whoever reaches it can load weights, so let nobody else reach it.
    """

    def __init__(self, url: str, *, adapter: bool, at_once: int) -> None:
        """`at_once` requests are under way at a time. Raises ModelError when no vLLM answers there."""
        self.url, self.adapter, self.at_once = url.rstrip("/"), adapter, at_once
        listed = self._get("/v1/models").get("data") or [{}]
        self.model = ADAPTER if adapter else str(listed[0].get("id"))

    def load(self, folder: Path, version: str) -> None:
        if self.adapter:
            body = {"lora_name": ADAPTER, "lora_path": str(folder), "load_inplace": True}
            self._post("/v1/load_lora_adapter", body)
        else:
            kwargs = {"weights_path": str(folder)}
            self._post("/collective_rpc", {"method": "reload_weights", "kwargs": kwargs})
        self._post("/reset_prefix_cache", {})  # else prompts keep the keys and values of earlier weights

    def answer(self, asks: Sequence[Ask], done: Callable[[int], None]) -> list[list[Answer]]:
        found = []
        with ThreadPoolExecutor(self.at_once) as pool:
            for answers in pool.map(self._complete, asks):
                found.append(answers)
                done(len(found))
        return found

    def _complete(self, ask: Ask) -> list[Answer]:
        body = {"model": self.model, "prompt": list(ask.prompt_ids), "return_token_ids": True, **ask.settings}
        choices = self._post("/v1/completions", body).get("choices", [])
        if any(choice.get("token_ids") is None for choice in choices):
            raise ModelError(f"{self.url}: returns no token ids; run vLLM 0.18 or later there")
        return [
            Answer(tuple(choice["token_ids"]), tuple(choice["logprobs"]["token_logprobs"]))
            for choice in sorted(choices, key=lambda choice: int(choice["index"]))
        ]

    def _get(self, path: str) -> dict[str, Any]:
        return self._send(Request(self.url + path))

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        return self._send(Request(self.url + path, json.dumps(body).encode(), headers))

    def _send(self, request: Request) -> dict[str, Any]:
        try:
            with urlopen(request, timeout=TIMEOUT) as reply:
                text = reply.read().decode()
        except HTTPError as error:
            said = error.read().decode(errors="replace")[:300]
            raise ModelError(
                f"{request.full_url}: the vLLM server refused ({error.code}: {said}); docs/vllm.md "
                "says how it is to be started"
            ) from error
        except (URLError, OSError, http.client.HTTPException) as error:
            raise ModelError(
                f"{request.full_url}: no vLLM server answers ({error}); start it, or give the "
                "right --vllm_server"
            ) from error
        try:
            found = json.loads(text)
        except ValueError:  # some routes answer with a word, or nothing
            return {}
        return found if isinstance(found, dict) else {}
