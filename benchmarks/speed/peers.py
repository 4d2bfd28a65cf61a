"""The peers' side: TRL's trainers as their documentation shows them, and Hugging Face's generate().

What differs from TRL's defaults: float32 where ours has it (in bfloat16 TRL's default is taken, float32
weights under autocast), no gradient checkpointing unless asked for (it makes TRL slower), a constant learning
rate, nothing saved.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

from speed.rewards import variety
from speed.task import LEARNING_RATE, LORA_ALPHA, LORA_RANK, Measured, Task, read_rows, spread


class Clock(TrainerCallback):
    """Seconds between the ends of steps, and what was logged."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())

    def on_log(self, *_: Any, **found: Any) -> None:
        if "loss" in found["logs"]:
            self.losses.append(float(found["logs"]["loss"]))

    @property
    def seconds(self) -> list[float]:
        """Of every step but the first."""
        return [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]


def sft(task: Task) -> Measured:
    from trl import SFTConfig, SFTTrainer

    rows = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in _texts(task)]
    trainer, clock = _train(task, SFTTrainer, SFTConfig, rows, len(rows), max_length=None)
    tokens = sum(label != -100 for row in trainer.train_dataset["labels"] for label in row[1:])
    return Measured(clock.seconds, tokens, clock.losses)


def reward(task: Task) -> Measured:
    from trl import RewardConfig, RewardTrainer

    texts = _texts(task)
    rows = [{side: r["prompt"] + r[side] for side in ("chosen", "rejected")} for r in texts]
    trainer, clock = _train(task, RewardTrainer, RewardConfig, rows, len(rows), max_length=None)
    tokenizer = AutoTokenizer.from_pretrained(task.model)
    prompts = sum(len(tokenizer(r["prompt"], add_special_tokens=False).input_ids) for r in texts)
    both = sum(len(ids) for side in ("chosen_ids", "rejected_ids") for ids in trainer.train_dataset[side])
    return Measured(clock.seconds, both - 2 * prompts, clock.losses)


def dpo(task: Task, *, cached: bool = False) -> Measured:
    from trl import DPOConfig, DPOTrainer

    rows = _texts(task)
    own = {"max_length": None, "precompute_ref_log_probs": cached}
    trainer, clock = _train(task, DPOTrainer, DPOConfig, rows, len(rows), **own)
    columns = [trainer.train_dataset[side] for side in ("chosen_ids", "rejected_ids")]
    return Measured(clock.seconds, sum(len(ids) for column in columns for ids in column), clock.losses)


def dpo_cached(task: Task) -> Measured:
    return dpo(task, cached=True)


def grpo(task: Task) -> Measured:
    from trl import GRPOConfig, GRPOTrainer

    return _group_relative(task, GRPOTrainer, GRPOConfig, beta=0.04)


def rloo(task: Task) -> Measured:
    from trl import RLOOConfig, RLOOTrainer

    return _group_relative(task, RLOOTrainer, RLOOConfig, beta=0.05)


def _group_relative(task: Task, trainer: Any, config: Any, beta: float) -> Measured:
    rows = [{"prompt": r["prompt"]} for r in spread(_texts(task), task.prompts)]
    own = {
        "num_generations": task.answers,
        "max_completion_length": task.new_tokens,
        "beta": beta,
        "reward_funcs": variety,
    }
    _, clock = _train(task, trainer, config, rows, task.sampled, **own)
    return Measured(clock.seconds, task.sampled * task.new_tokens, clock.losses)


def ppo(task: Task) -> Measured:
    """Of the value model only the head is trained, as on our side, though it runs as a model of its own."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(task.model, padding_side="left")
    prompts = [r["prompt"] for r in spread(_texts(task), task.prompts) for _ in range(task.answers)]
    rows = [{"input_ids": tokenizer(p, add_special_tokens=False).input_ids} for p in prompts]
    scorers = [
        AutoModelForSequenceClassification.from_pretrained(task.model, num_labels=1, dtype=task.peer_weights)
        for _ in range(2)
    ]
    scorers[0].base_model.requires_grad_(False)
    own: dict[str, Any] = {
        "total_episodes": task.sampled * (task.steps + 1),
        "response_length": task.new_tokens,
        "num_ppo_epochs": 4,
        "num_mini_batches": 1,
        "num_sample_generations": 0,
        "temperature": 1.0,
        "stop_token_id": tokenizer.eos_token_id,
        "value_model": scorers[0],
        "reward_model": scorers[1],
        "ref_model": None if task.lora else _policy(task),
        "model": _policy(task),
        "processing_class": tokenizer,
    }
    _, clock = _train(task, PPOTrainer, PPOConfig, rows, task.sampled, **own)
    return Measured(clock.seconds, task.sampled * task.new_tokens, clock.losses)


@torch.inference_mode()
def sampling(task: Task) -> Measured:
    tokenizer = AutoTokenizer.from_pretrained(task.model, padding_side="left")
    model = _load(task, task.dtype).eval()  # nothing is trained, so nothing asks for float32 weights
    prompts = [r["prompt"] for r in spread(_texts(task), task.prompts)]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
    seconds, made = [], None
    for seed in range(task.steps + 1):
        torch.manual_seed(seed)
        began = time.perf_counter()
        made = model.generate(
            **inputs,
            do_sample=True,
            top_k=0,
            max_new_tokens=task.new_tokens,
            num_return_sequences=task.answers,
        )
        seconds.append(time.perf_counter() - began)
    assert made is not None
    return Measured(seconds[1:], made[:, inputs.input_ids.shape[1] :].numel())


PEERS: Mapping[str, Callable[[Task], Measured]] = {
    "sft": sft,
    "reward": reward,
    "dpo": dpo,
    "dpo-cached": dpo_cached,
    "grpo": grpo,
    "rloo": rloo,
    "ppo": ppo,
    "sampling": sampling,
}


def _texts(task: Task) -> list[dict[str, str]]:
    """The pairs as rendered text; TRL adds the end of the turn to the answers itself."""
    tokenizer = AutoTokenizer.from_pretrained(task.model)
    return [
        {
            "prompt": str(
                tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
            ),
            "chosen": row["chosen"][0]["content"],
            "rejected": row["rejected"][0]["content"],
        }
        for row in read_rows(f"{task.data}/pairs.jsonl")
    ]


def _train(
    task: Task, trainer: Any, config: Any, rows: list[dict[str, Any]], batch: int, **own: Any
) -> tuple[Any, Clock]:
    """Run `trainer`; of `own`, what is no setting of `config` goes to the trainer."""
    clock = Clock()
    with TemporaryDirectory() as folder:
        settings = {name: own.pop(name) for name in list(own) if name in config.__dataclass_fields__}
        arguments = config(
            output_dir=folder,
            per_device_train_batch_size=batch // int(os.environ.get("WORLD_SIZE", "1")),
            max_steps=task.steps + 1,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            gradient_checkpointing=task.peer_checkpointing,
            bf16=task.dtype == "bfloat16",
            use_cpu=not torch.cuda.is_available(),
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **settings,
        )
        if "model" not in own:
            own["model"] = task.model
            arguments.model_init_kwargs = {"dtype": task.peer_weights}
        lora = LoraConfig(
            r=LORA_RANK,
            lora_alpha=LORA_ALPHA,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="SEQ_CLS" if "Reward" in config.__name__ else "CAUSAL_LM",
        )
        built = trainer(
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            peft_config=lora if task.lora else None,
            callbacks=[clock],
            **own,
        )
        built.train()
    return built, clock


def _policy(task: Task) -> Any:
    return _load(task, task.peer_weights)


def _load(task: Task, dtype: str) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(task.model, dtype=dtype)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")
