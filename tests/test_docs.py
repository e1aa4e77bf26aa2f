"""The documents: their Python runs, their commands, options, keys and files exist, their links lead somewhere, and they
stay short."""

import argparse
import importlib
import importlib.util
import itertools
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import click
import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from dvis_d2 import __version__, add_dvis_config
from dvis_d2.engine import Trainer, argument_parser, setup_cfg

ROOT = Path(__file__).parents[1]
GUIDE = sorted((ROOT / "docs/guide").glob("*.md"))
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("experiments/*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
COMMAND = re.compile(r"(?:\w+=\S+ )*(dvis|make|python|torchrun|srun)(?: |$)")
OTHER_MODULES = ("pytest", "venv", "sphinx", "dvis_d2.install_detectron2")  # of `python -m`
FOLDERS = ("configs", "demo", "docs", "dvis_d2", "experiments", "tests", "tools")
ENVIRONMENT = "DETECTRON2_DATASETS OMP_NUM_THREADS DVIS_TIMEOUT DVIS_ALLOW_PICKLE WANDB_PROJECT MLFLOW_TRACKING_URI"


@dataclass
class Block:
    """A fenced block: its language, its text, and where it is."""

    language: str
    text: str
    place: str


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    found = re.finditer(r"^( *)```([^\n`]*)\n(.*?)^\1```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(m[2], m[3], f"{name_of(page)}, {m[3][:40]!r}") for m in found]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def code_spans(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def block_commands(page: Path) -> list[str]:
    """Commands in blocks without a language or of bash, continued lines joined."""
    shell = [block.text for block in blocks(page) if block.language in ("", "bash")]
    lines = [line.strip() for text in shell for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if COMMAND.match(line)]


def span_commands(page: Path) -> list[str]:
    return [span for span in code_spans(page) if COMMAND.match(span)]


def words_of(line: str) -> list[str]:
    """The command without comments, variables before it and a scheduler in front."""
    words = shlex.split(line, comments=True)
    while "=" in words[0] or words[0] == "srun":
        words = words[1:]
    return words


def each(commands_of: Callable[[Path], list[str]]) -> list:
    return [pytest.param(line, id=f"{name_of(page)}: {line[:60]}") for page in PAGES for line in commands_of(page)]


# ---- Python blocks


@pytest.fixture
def trained(tiny_args, tiny_coco, tmp_path, monkeypatch):
    """A working directory with what the documents speak of: images, JSON files, and output/mine/ with a config and
    weights, which are random."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(ROOT / "data")
    shutil.copy(tmp_path / "images/0.png", tmp_path / "images/new.png")
    for name in ("train.json", "val.json"):
        shutil.copy(tiny_coco[0], tmp_path / name)
    weights = tmp_path / "output/mine/model_final.pth"
    weights.parent.mkdir(parents=True)
    cfg = setup_cfg(argument_parser().parse_args([*tiny_args, "OUTPUT_DIR", str(weights.parent)]))
    weights.with_name("config.yaml").write_text(cfg.dump())
    torch.save({"model": Trainer.build_model(cfg).state_dict()}, weights)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(weights)
    return cfg


@pytest.mark.parametrize("page", [p for p in (README, *GUIDE) if "```python" in p.read_text()], ids=name_of)
def test_python_blocks_run(page, trained):
    """In the order of the page, in one namespace, which has `cfg` where the text says so."""
    namespace = {"cfg": trained, "__name__": "documents"}
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text, block.place, "exec"), namespace)


# ---- Commands


def config_with_keys() -> CfgNode:
    add_dvis_config(cfg := get_cfg())
    return cfg


def all_keys(node: CfgNode, prefix: str = "") -> set[str]:
    keys = set()
    for name, value in node.items():
        keys |= {prefix + name} | (all_keys(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else set())
    return keys


KEYS = all_keys(config_with_keys()) | {"DATASETS.SEEN_CLASS_NAMES"}  # the last one is of experiments/unseen.py
LEAVES = {part for key in KEYS for part in key.split(".")}


def check_pairs(words: list[str]) -> None:
    """`KEY VALUE ...` can be merged into a config."""
    assert not [w for w in words if re.match(r"-+[a-z]", w)], f"no such option: {words}"
    assert len(words) % 2 == 0, f"no pairs KEY VALUE: {words}"
    config_with_keys().merge_from_list(words)


def is_key(word: str) -> bool:
    return word.split(".")[0] in LEAVES and re.fullmatch(r"[A-Z][A-Z0-9_.]+", word) is not None


def click_command(name: str) -> click.Command:
    from dvis_d2.cli import main

    assert name in main.commands, f"there is no command dvis {name}"
    return main.commands[name]


def check_click(name: str, words: list[str]) -> None:
    command = click_command(name)
    parser = command.make_parser(click.Context(command, info_name=name, **command.context_settings))
    parsed, rest, _ = parser.parse_args(list(words))
    given = {key: value for key, value in parsed.items() if isinstance(value, (str, tuple))}  # the rest is "not given"
    missing = [p.name for p in command.params if p.required and not given.get(p.name)]
    assert not missing, f"dvis {name} needs {missing}"
    arguments = [*rest, *given.get("opts", ()), *given.get("arguments", ())]
    check_pairs(list(itertools.dropwhile(lambda word: name == "predict" and not is_key(word), arguments)))


def experiment(name: str) -> ModuleType:
    path = (ROOT / name.replace(".", "/")).with_suffix(".py")
    assert path.is_file(), f"there is no module {name}"
    return importlib.import_module(name)


class Parsed(Exception):
    """Carries what a program was given, instead of running it."""


def check_experiment(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, *args):
        given = parse_args(parser, *args)
        if hasattr(given, "options"):  # of experiments.benchmark: the benchmark's own parser reads them
            return given
        raise Parsed(given)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    try:
        experiment(name).main(words)
    except Parsed as parsed:
        check_pairs(getattr(parsed.args[0], "opts", None) or [])
    except SystemExit:
        pytest.fail(f"{name} does not take {words}")


def check_script(path: str, words: list[str]) -> None:
    assert (ROOT / path).is_file(), f"there is no program {path}"
    if path.startswith("demo"):
        spec = importlib.util.spec_from_file_location("demo_of_documents", ROOT / path)
        demo = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(demo)
    parser = demo.get_parser() if path.startswith("demo") else argument_parser()
    try:
        check_pairs(parser.parse_args(words).opts)
    except SystemExit:
        pytest.fail(f"{path} does not take {words}")


MAKE_TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("line", each(block_commands))
def test_commands_in_blocks_can_be_given(line, monkeypatch):
    program, *words = words_of(line)
    files = [word for word in words if word.endswith(".yaml") and word.split("/")[0] in FOLDERS]
    assert not [file for file in files if not (ROOT / file).is_file()]
    if program == "torchrun":
        words = list(itertools.dropwhile(lambda word: not word.endswith(".py"), words))
    if program == "make":
        assert {word for word in words if "=" not in word} <= MAKE_TARGETS
    elif program == "dvis" and words != ["--help"]:
        check_click(words[0], words[1:])
    elif words[0] == "-m":
        if words[1] not in OTHER_MODULES:
            check_experiment(words[1], words[2:], monkeypatch)
    elif program != "dvis":
        check_script(words[0], words[1:])


@pytest.mark.parametrize("line", each(span_commands))
def test_commands_in_the_text_exist(line):
    """Their arguments may be left out there."""
    program, *words = words_of(line)
    if program == "make":
        assert {word for word in words if "=" not in word} <= MAKE_TARGETS
    elif program == "dvis" and words:
        click_command(next(word for word in words if not word.startswith("-")))
    elif program == "python" and words[0] == "-m" and words[1] not in OTHER_MODULES:
        experiment(words[1])
    elif program == "python" and words[0] != "-m":
        assert (ROOT / words[0]).is_file()


# ---- Names, files, links, sizes


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_config_keys_in_the_text_exist(page):
    spans = [word for span in code_spans(page) for word in span.split()]
    dotted = {w for w in spans if re.fullmatch(r"(MODEL|SOLVER|DATASETS|INPUT|TEST|DATALOADER)(\.[A-Z0-9_]+)+", w)}
    assert dotted <= KEYS
    plain = {w for w in spans if re.fullmatch(r"[A-Z]+(_[A-Z0-9]+)+(\.[A-Z_]+)*", w) and not w.endswith("_REGISTRY")}
    assert {w for w in plain if not LEAVES.issuperset(w.split("."))} <= set(ENVIRONMENT.split())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_in_the_text_exist(page):
    paths = (w for span in code_spans(page) for w in span.split() if re.fullmatch(r"[\w./-]+/[\w./-]*", w))
    named = {w for w in paths if w.split("/")[0] in FOLDERS}
    assert not [w for w in named if not (ROOT / w).exists()]


def test_documents_that_the_code_names_exist():
    files = [path for folder in ("configs", "dvis_d2", "experiments") for path in (ROOT / folder).rglob("*.*")]
    texts = (path.read_text() for path in files if path.suffix in (".py", ".yaml"))
    named = set(re.findall(r"docs/[\w/-]+\.md", "\n".join(texts)))
    assert not [page for page in named if not (ROOT / page).is_file()]


def test_modules_in_the_architecture_exist():
    named = set(re.findall(r"\w+\.py", (ROOT / "docs/architecture.md").read_text()))
    existing = {path.name for folder in ("dvis_d2", "demo") for path in (ROOT / folder).rglob("*.py")}
    assert named - existing == {"train_net.py"}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", prose(page))
    assert not [link for link in links if "://" not in link and not (page.parent / link).is_file()]


def test_pages_stay_short():
    assert len(README.read_text().splitlines()) <= 120
    assert {p.name: n for p in GUIDE if (n := len(p.read_text().splitlines())) > 150} == {}
    assert sum(len(p.read_text().split()) for p in GUIDE) <= 14_000


def test_every_page_of_the_guide_begins_with_a_start_that_runs():
    for page in GUIDE:
        assert re.match(r"# .+\n\n(?:[^\n`].*\n)*\n?```(bash|python)\n", page.read_text()), page.name


def test_yaml_blocks_can_be_merged():
    for page in GUIDE:
        for block in blocks(page):
            if block.language == "yaml":
                config_with_keys().merge_from_other_cfg(CfgNode(yaml.safe_load(block.text)))


def test_citation_names_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["preferred-citation"]["title"] == "Deep Variational Instance Segmentation"
