"""The documents are held to the code: links, commands, settings, metrics, functions, the Python example."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

import accord
from accord import config
from accord.cli import app
from tiny import tiny_llama, tiny_tokenizer

ROOT = Path(__file__).parent.parent
DOCS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
COMMANDS = {c.name or c.callback.__name__: c.callback for c in app.registered_commands}  # type: ignore[union-attr]
SCHEMAS = {name: schema for name, (schema, _) in accord.STAGES.items()} | {
    "run": "RunConfig",
    "quickstart": "RunConfig",
}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code(path: Path) -> list[str]:
    """Lines of code blocks (continued ones joined) and the pieces of inline code."""
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.M | re.S)
    return lines + re.findall(r"`([^`\n]+)`", rest)


def settings(schema: str) -> set[str]:
    return {name for name, *_ in config.describe(getattr(config, schema))}


@pytest.mark.parametrize("path", DOCS, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "#")):
            continue
        assert (path.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("path", DOCS, ids=named)
def test_commands_and_their_flags_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    for line in code(path):
        line = line.partition(" #")[0]
        for target in re.findall(r"\bmake (?:PYTHON=\S+ )?([a-z]+)", line):
            assert target in targets, line
        for match in re.finditer(r"(?:^|\s|/)accord +([a-z][a-z+-]*)(.*)", line):
            command, rest = match.groups()
            if command in ("import",):
                continue
            assert command in COMMANDS, line
            for flag in re.findall(r"(?<!\S)--([A-Za-z_.-]+)", rest):
                assert flag in known_flags(command), line


def known_flags(command: str) -> set[str]:
    common = {"help", "debug"}
    if command not in SCHEMAS:
        return common | {name.replace("_", "-") for name in COMMANDS[command].__annotations__}
    found = common | {"config"} | settings(SCHEMAS[command])
    if SCHEMAS[command] == "RunConfig":
        found |= {f"{stage}.{name}" for stage, schema in SCHEMAS.items() for name in settings(schema)}
    return found | {name.rpartition(".")[0] for name in found} | {"lora"}


@pytest.mark.parametrize(
    "page", ["pretrain", "sft", "sample", "ask", "reward", "dpo", "ppo", "grpo", "eval", "loop"]
)
def test_settings_on_a_stages_page_exist_with_these_defaults(page: str) -> None:
    schema = SCHEMAS["run" if page == "loop" else page]
    defaults = {name: default for name, _, default, _ in config.describe(getattr(config, schema))}
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    table = re.search(r"\| setting \| default .*?\n\n", text, flags=re.S)
    assert table is not None
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", table.group(), flags=re.M)
    assert rows
    for names, values in rows:
        found = re.findall(r"`([^`]+)`", names)
        shown = [v.strip() for v in values.split(",")]
        for name, value in zip(found, shown if len(found) > 1 else [values.strip()], strict=True):
            if name == "lora":
                assert "lora.r" in defaults
                continue
            assert name in defaults, f"{page}.md: {name}"
            assert same(defaults[name], value), f"{page}.md: {name} is {defaults[name]}, not {value}"


def test_the_offline_methods_own_settings_are_listed_with_these_defaults() -> None:
    text = (ROOT / "docs" / "dpo.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `accord ([a-z-]+)` \|.*\| ([^|]+) \|$", text, flags=re.M))
    offline = {n: s for n, (s, module) in accord.STAGES.items() if module == "accord.stages.offline"}
    assert listed.keys() == offline.keys()
    files = {"model": "m", "data": "d", "out": "o"}
    for name, schema in offline.items():
        own = getattr(config, schema).model_validate(files).own()
        shown = dict(re.findall(r"`(\w+)` ([\w.]+)", listed[name]))
        assert shown == {setting: str(value) for setting, value in own.items()}, name


def same(default: str, shown: str) -> bool:
    try:
        return float(default) == float(shown)
    except ValueError:
        return {"None": "none", "False": "false"}.get(default, default) == shown


def test_functions_and_tests_in_the_index_of_papers_exist() -> None:
    text = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    places = re.findall(r"`([\w/]+\.py):(\w+)`", text)
    assert len(places) > 50
    for file, name in places:
        root = ROOT / "tests" if Path(file).name.startswith("test_") else ROOT / "src" / "accord"
        tree = ast.parse((root / file).read_text(encoding="utf-8"))
        assert name in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, f"{file}:{name}"


def test_every_objective_is_in_the_index_of_papers() -> None:
    text = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    helpers = {"terms.py", "__init__.py"}
    for file in (ROOT / "src" / "accord" / "objectives").glob("*.py"):
        assert file.name in helpers or f"objectives/{file.name}:" in text, file.name


def test_dotted_names_of_functions_exist() -> None:
    for path in DOCS:
        for name in re.findall(r"`accord\.((?:\w+\.)+)(\w+)`", path.read_text(encoding="utf-8")):
            module, function = name[0].rstrip("."), name[1]
            file = ROOT / "src" / "accord" / (module.replace(".", "/") + ".py")
            package = ROOT / "src" / "accord" / module.replace(".", "/") / f"{function}.py"
            assert package.exists() or re.search(rf"^(def|class) {function}\b", file.read_text(), flags=re.M)


def test_files_that_are_named_exist() -> None:
    for path in DOCS:
        for name in re.findall(r"`(src/[\w/.]+)`", path.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{named(path)}: {name}"


def test_users_read_nothing_about_the_workshop() -> None:
    for path in DOCS:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/work/|/tmp/|\.\./shared|/home/", text), named(path)


# -------------------------------------------------------------------- what really runs and is logged


def explained() -> set[str]:
    """The names in the first column of metrics.md."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([^`]+)` \|", text, flags=re.M))


def test_every_metric_in_the_code_is_explained_and_none_is_made_up() -> None:
    files = [*(ROOT / "src/accord/objectives").glob("*.py"), *(ROOT / "src/accord/stages").glob("*.py")]
    pattern = r'"([a-z]+/[a-z0-9_]+)"'
    logged = {name for file in files for name in re.findall(pattern, file.read_text())}
    plain = {"step", "seconds", "loss", "grad_norm", "lr", "tokens", "kl_coef", "updates", "stopped_early"}
    plain |= {"frac_reward_zero_std", "kl"}
    assert logged | plain == explained()


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The README's Python example, run as it stands but for the model and the sizes; and what it printed."""
    folder = tmp_path_factory.mktemp("example")
    tiny_llama().save_pretrained(folder / "tiny")
    tiny_tokenizer().save_pretrained(folder / "tiny")
    words = ("yes", "no", "one", "two", "red", "blue")
    rows: list[dict[str, Any]] = [
        {"prompt": f"Say {w}.", "chosen": f"{w}!", "rejected": "I will not."} for w in words
    ]
    (folder / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prompts.jsonl").write_text("".join(f'{{"prompt": "Say {w}."}}\n' for w in words))
    (source,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    smaller = {
        '"smollm2-135m-instruct"': repr(str(folder / "tiny")),
        "iterations=20": "iterations=2, prompts_per_iteration=2, k=2",
        "max_new_tokens=64": "max_new_tokens=6",
    }
    for old, new in smaller.items():
        assert old in source
        source = source.replace(old, new)
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        say = {"print": lambda *words: printed.append(" ".join(map(str, words)))}
        exec(compile(source, "README.md", "exec"), say)
    accord.sft(
        model=folder / "tiny", data=str(demonstrations(folder)), out=folder / "work/sft", epochs=1, quiet=True
    )
    return folder / "work", "\n".join(printed)


def demonstrations(folder: Path) -> Path:
    path = folder / "demonstrations.jsonl"
    path.write_text('{"prompt": "Say yes.", "completion": "yes!"}\n')
    return path


def test_the_example_is_short_and_prints_before_and_after(example: tuple[Path, str]) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert len([line for line in source.splitlines() if line.strip()]) <= 15
    _, printed = example
    assert re.search(r"^held-out accuracy [01]\.\d*$", printed, flags=re.M)
    assert re.search(r"^before ", printed, flags=re.M) and re.search(r"^after ", printed, flags=re.M)


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_every_number_that_a_run_logs_is_explained(example: tuple[Path, str], stage: str) -> None:
    lines = (example[0] / stage / "metrics.jsonl").read_text().splitlines()
    logged = {name for line in lines for name in json.loads(line)}
    assert len(logged) > 5
    assert logged <= explained()


def test_the_report_card_is_explained(example: tuple[Path, str]) -> None:
    card = json.loads((example[0] / "reward" / "result.json").read_text())["card"]
    text = (ROOT / "docs" / "reward.md").read_text()
    unexplained = {name for name in card if f"`{name}`" not in text}
    assert unexplained <= {"share_above_chance", "mean_margin", "n_prompts"}
