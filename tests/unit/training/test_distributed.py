"""What starts several processes, and what must not pretend to."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

import accord
from accord.errors import ConfigError
from accord.training.distributed import PeerFailedError, group, spread

CONFIGS = Path(accord.__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_accelerate_reads_the_shipped_configurations(path: Path) -> None:
    config = load_config_from_file(str(path))
    kind = {"processes": "MULTI_GPU", "fsdp2": "FSDP"}[path.stem]
    assert (config.distributed_type, config.use_cpu, config.num_machines) == (kind, False, 1)
    assert config.num_processes == 2 and not config.deepspeed_config
    assert config.fsdp_config.get("fsdp_version") == (2 if kind == "FSDP" else None)


FSDP = {"ACCELERATE_USE_FSDP": "true"}


@pytest.mark.parametrize(
    "environment, what",
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DEEPSPEED"),
        ({"ACCELERATE_USE_MEGATRON_LM": "1"}, "MEGATRON_LM"),
        (FSDP, "FSDP version 1"),
        ({**FSDP, "FSDP_VERSION": "1"}, "FSDP version 1"),
        ({**FSDP, "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "FSDP_OFFLOAD_PARAMS"),
        (
            {**FSDP, "FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "true"},
            "FSDP_ACTIVATION_CHECKPOINTING",
        ),
    ],
)
def test_what_a_launcher_promises_and_nobody_does_is_refused(
    environment: dict[str, str], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"^{what} is asked for.*configs/fsdp2.yaml"), group():
        pytest.fail("the block was entered")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(PeerFailedError), group():  # one message is enough
        pytest.fail("the block was entered")
    for variable in environment:
        monkeypatch.setenv(variable, "2" if variable == "FSDP_VERSION" else "false")
    with group():
        assert spread([3, 4], lambda items: [2 * item for item in items]) == [6, 8]
