"""Talk to a model in the terminal."""

from __future__ import annotations

from rich.console import Console

from accord.data.render import Renderer
from accord.models.device import on_device
from accord.models.load import load_model
from accord.records import Message, Prompt, Sampling
from accord.rollout.local import LocalSampler
from accord.stages.ask import safe


def run(
    name: str, console: Console, *, system: str, temperature: float, max_new_tokens: int, seed: int
) -> None:
    """Turns until an empty line or the end of input; the whole conversation is the prompt of each answer."""
    with on_device("auto"):
        loaded = load_model(name)
    sampler = LocalSampler(loaded.model, Renderer(loaded.tokenizer), policy_version=name, rows=1)
    sampling = Sampling(temperature, 1.0, max_new_tokens, seed)
    turns: tuple[Message, ...] = (Message("system", system),) if system else ()
    while True:
        try:
            text = console.input("[bold]you:[/bold] ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if not text:
            return
        turns = (*turns, Message("user", text))
        answer = sampler.sample([Prompt(turns)], 1, sampling)[0].completions[0].text
        console.print(f"[bold]{safe(loaded.name)}:[/bold] {safe(answer)}")
        turns = (*turns, Message("assistant", answer))
