"""Reading a language model: the embedded one, a folder (Hugging Face or peft), or a hub id.

Only plain safetensors weights are read: no pickles, and no code that comes with a model. A model arrives
ready for exact work: eval mode, no dropout anywhere, and nothing trainable until an adapter says so.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from peft import PeftConfig, PeftModel
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from accord.errors import ModelError
from accord.models import embedded
from accord.models.device import here, on_cpu
from accord.models.quiet import quietly

EMBEDDED_NAMES = (embedded.NAME, "embedded")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
_CAUSAL = ("ForCausalLM", "LMHeadModel")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in eval mode with its tokenizer. `source` is its folder or hub id."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    source: str


def load_model(name: str, *, dtype: str = "auto", device: torch.device | None = None) -> LoadedModel:
    """Load `name`: "smollm2-135m-instruct" (or "embedded"), a folder, or a Hugging Face hub id.

    A folder with adapter_config.json is a peft adapter: its base is loaded first and the adapter merged in.
    dtype is "float32", "bfloat16", "float64" or "auto": bfloat16 on a GPU that has it, else float32 (few CPUs
    have bfloat16 instructions, and without them it is many times slower). The model goes to `device`,
    or to that of new tensors (see `device.on_device`). Raises ModelError with advice for anything that cannot
    be loaded.
    """
    wanted = _torch_dtype(dtype)
    folder, source = _locate(name)
    # Loading must not move the caller's random stream.
    with torch.random.fork_rng(devices=[]), on_cpu():
        model, tokenizer = _load_folder(folder, wanted, seen=())
    model.name_or_path = source
    shown_name = embedded.NAME if name in EMBEDDED_NAMES else name
    ready = cast(Any, _ready(model)).to(device or here())
    return LoadedModel(ready, tokenizer, shown_name, source)


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the folder's safetensors files, joined in the order of their names.

    For a single file it is that file's own hash. An adapter's folder is hashed without its base.
    Raises ModelError when the folder holds no safetensors file or one cannot be read.
    """
    digest = hashlib.sha256()
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: holds no safetensors weights to take a hash of")
    for path in files:
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _torch_dtype(dtype: str) -> torch.dtype:
    if dtype == "auto":
        on_gpu = here().type == "cuda"
        fast_bfloat16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast_bfloat16 else torch.float32
    if dtype not in _DTYPES:
        raise ModelError(f"dtype {dtype!r} is unknown; choose from auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def _locate(name: str) -> tuple[Path, str]:
    """The folder that holds the model, and the source to remember (its full path, or the hub id)."""
    if name in EMBEDDED_NAMES:
        folder = embedded.fetch_embedded()
        return folder, str(folder)
    path = Path(name).expanduser()
    if path.is_dir():
        return path, str(path.resolve())
    if path.exists():
        raise ModelError(f"{path}: is a file; give the folder that holds the model")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or not name:
        raise ModelError(f"{name or '(empty)'}: no such model folder; check the path")
    return _download(name), name


def _download(hub_id: str) -> Path:
    """Folder of a hub model in the hub client's cache; downloaded when it is not there."""
    quiet = nullcontext() if sys.stderr.isatty() else quietly()  # a person wants to see the bar
    try:
        with quiet:
            # Subfolders hold other formats of the same weights, "consolidated" files a second copy.
            ignored = ["*/*", "consolidated*"]
            return Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES, ignore_patterns=ignored))
    except HFValidationError as error:
        raise ModelError(
            f"{hub_id!r} is neither a folder nor a Hugging Face model id (owner/name)"
        ) from error
    except GatedRepoError as error:
        raise ModelError(
            f"{hub_id}: its owner asks you to accept terms first; do so on its hub page, then log in with "
            "`hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"{hub_id}: neither a folder here nor a model on the Hugging Face hub; check the spelling, or "
            "log in with `hf auth login` if it is private"
        ) from error
    except Exception as error:  # network, proxy, certificates, disk: the client has many kinds
        raise ModelError(
            f"{hub_id}: no such folder here, and it cannot be downloaded from the Hugging Face hub "
            f"({_first_line(error)}); check the network, copy the model's folder here and give its path, "
            f"or use {embedded.NAME!r}"
        ) from error


def _load_folder(
    folder: Path, dtype: torch.dtype, seen: tuple[Path, ...]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if folder.resolve() in seen:
        raise ModelError(f"{folder}: the adapter names itself as its base; mend base_model_name_or_path")
    if (folder / "adapter_config.json").is_file():
        return _load_adapter(folder, dtype, (*seen, folder.resolve()))
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder}: holds neither config.json (a model) nor adapter_config.json (a peft adapter)"
        )
    _check_weights(folder, "*.safetensors")
    model = _read_model(folder, _read_config(folder), dtype)
    tokenizer = _read_tokenizer(folder)
    rows = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens and the model embeds only {rows}; "
            "they do not belong together"
        )
    return model, tokenizer


def _load_adapter(
    folder: Path, dtype: torch.dtype, seen: tuple[Path, ...]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model with the folder's peft adapter merged in; the adapter's own tokenizer if it has one."""
    _check_weights(folder, "adapter_model.safetensors")
    base_name = _base_of(folder)
    try:
        base, _ = _locate(base_name)
    except ModelError as error:
        raise ModelError(f"{folder}: the adapter's base model is not to be had: {error}") from error
    model, tokenizer = _load_folder(base, dtype, seen)
    try:
        with quietly():
            # peft only warns when the file lacks weights, and leaves those parts untrained.
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False, local_files_only=True)
            model = adapted.merge_and_unload(safe_merge=True)  # type: ignore[operator]
    except Exception as error:
        raise ModelError(
            f"{folder}: the adapter cannot be merged into {base_name} ({_first_line(error)}); "
            "is that the model it was trained on?"
        ) from error
    return model, _read_tokenizer(folder) if (folder / "tokenizer_config.json").is_file() else tokenizer


def _base_of(folder: Path) -> str:
    """Name of the adapter's base model; a relative path may be relative to the adapter's folder."""
    try:
        with quietly():
            config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:
        raise ModelError(
            f"{folder}/adapter_config.json: not a peft configuration ({_first_line(error)})"
        ) from error
    if config.is_prompt_learning:
        raise ModelError(
            f"{folder}: {config.peft_type} adapters cannot be merged; use LoRA or a relative of it"
        )
    if config.task_type not in (None, "CAUSAL_LM"):
        raise ModelError(f"{folder}: the adapter is for {config.task_type}, not for a causal language model")
    name = config.base_model_name_or_path
    if not name:
        raise ModelError(
            f"{folder}/adapter_config.json: base_model_name_or_path is missing; name the base model"
        )
    if not Path(name).is_absolute() and not Path(name).is_dir() and (folder / name).is_dir():
        return str(folder / name)
    if not Path(name).is_dir() and Path(name).is_absolute() and Path(name).name == embedded.NAME:
        return embedded.NAME  # trained on another machine, whose cache lay elsewhere
    return name


def _check_weights(folder: Path, pattern: str) -> None:
    if any(folder.glob(pattern)):
        return
    pickles = sorted(path.name for kind in _PICKLES for path in folder.glob(kind))
    if pickles:
        raise ModelError(
            f"{folder}: the weights are a pickle ({pickles[0]}), which can run code when it is read, and are "
            "refused; convert them where you trust them: load with transformers, then save_pretrained()"
        )
    raise ModelError(f"{folder}: holds no weights ({pattern})")


def _read_config(folder: Path) -> PretrainedConfig:
    """config.json with every dropout set to 0. Raises ModelError unless it is a causal language model's."""
    try:
        with quietly():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise ModelError(_why_no_config(folder, error)) from error
    architectures = config.architectures or []
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not config.is_encoder_decoder
    if not causal or (architectures and not any(a.endswith(_CAUSAL) for a in architectures)):
        kind = ", ".join(architectures) or config.model_type
        raise ModelError(
            f"{folder}: is a {kind}, not a causal language model; choose one whose name ends in ForCausalLM"
        )
    _without_dropout(config)
    return config


def _why_no_config(folder: Path, error: Exception) -> str:
    try:
        with open(folder / "config.json", encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError) as bad:
        return f"{folder}/config.json: is not readable JSON ({_first_line(bad)}); copy the model again"
    if isinstance(config, dict) and "auto_map" in config:
        return (
            f"{folder}: the model needs code of its own ({config.get('model_type')}), which is never run; "
            "choose a model that transformers itself supports"
        )
    return f"{folder}/config.json: transformers does not know this model ({_first_line(error)})"


def _without_dropout(config: PretrainedConfig) -> None:
    for key, value in list(vars(config).items()):
        if isinstance(value, PretrainedConfig):
            _without_dropout(value)
        elif "drop" in key and isinstance(value, (int, float)) and not isinstance(value, bool):
            setattr(config, key, 0.0)


def _read_model(folder: Path, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    options: dict[str, Any] = {
        "attn_implementation": "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager",
        "use_safetensors": True,
        "trust_remote_code": False,
        "local_files_only": True,
        "output_loading_info": True,
    }
    try:
        with quietly():
            read: Any = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype, **options)
    except Exception as error:  # each kind of damage raises its own kind of error
        raise ModelError(
            f"{folder}: the weights cannot be read ({_first_line(error)}); copy the model again"
        ) from error
    # transformers would fill what is missing with random numbers and say so in a log line.
    model, report = read
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{folder}: the weights lack {len(missing)} tensors, first {missing[0]}; copy the model again"
        )
    return model


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        with quietly():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            works = bool(tokenizer("The quick brown fox", add_special_tokens=False).input_ids)
    except Exception as error:
        raise ModelError(_no_tokenizer(folder)) from error
    if not works:  # transformers makes up an empty tokenizer for some models
        raise ModelError(_no_tokenizer(folder))
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _no_tokenizer(folder: Path) -> str:
    found = sorted(p.name for p in folder.iterdir() if "token" in p.name or p.name.startswith("vocab"))
    if found:
        return f"{folder}: the tokenizer cannot be read ({', '.join(found)}); copy the model again"
    return f"{folder}: the model has no tokenizer; copy its tokenizer.json and tokenizer_config.json there"


def _ready(model: PreTrainedModel) -> PreTrainedModel:
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
    nn.Module.requires_grad_(model, False)
    return model.eval()


def _first_line(error: Exception) -> str:
    """The first line of the error's message, without a full stop, at most 200 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()[:200].rstrip(".")
