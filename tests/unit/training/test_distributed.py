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
    assert (config.distributed_type, config.use_cpu, config.num_machines) == ("MULTI_GPU", False, 1)
    assert config.num_processes == 2 and not config.fsdp_config and not config.deepspeed_config


@pytest.mark.parametrize("what", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_a_launcher_that_would_split_the_model_is_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{what}", "true")
    with pytest.raises(ConfigError, match=f"^{what} is asked for.*configs/processes.yaml"), group():
        pytest.fail("the block was entered")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(PeerFailedError), group():  # one message is enough
        pytest.fail("the block was entered")
    monkeypatch.setenv(f"ACCELERATE_USE_{what}", "false")
    with group():
        assert spread([3, 4], lambda items: [2 * item for item in items]) == [6, 8]
