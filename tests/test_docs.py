"""What the pages say is so: paths, links, commands and their options, keys, examples; and the configuration reference is current."""

import itertools
import re
import shlex
import sys
import tomllib
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer

import bench
from bench.backbone import load_backbone
from bench.cli import app
from bench.commands.reference import reference
from bench.data.frozen import flatten
from bench.data.physics.world import Scene, World
from bench.data.source import load_clips, load_config
from bench.perf.gate.policy import read_policy
from bench.run.checks import check_cell
from bench.shapes import LatentSpec
from bench.study.matrix import load_study, shipped
from tests.checkpoints import save_checkpoint
from tests.report_factory import pair, write_run

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "reports/README.md",
    ROOT / "results/README.md",
    *sorted(ROOT.glob("docs/*.md")),
]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KEYS = set(re.findall(r"^\| `([\w.]+)` \|", TEXTS["docs/configuration.md"], re.MULTILINE))
pages = pytest.mark.parametrize("page", TEXTS)


def fences(page: str, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(TEXTS[page]) if kind == language]


def spans(page: str) -> list[str]:
    """What stands as code inside the prose of a page."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", TEXTS[page]))


def examples(suffix: str) -> list[tuple[str, str, str]]:
    """(page, file name, text) of the examples that are a whole file: their first line names it."""
    found = [(page, text) for page in TEXTS for language in ("yaml", "python") for text in fences(page, language)]
    named = [(page, match[1], text) for page, text in found if (match := re.match(r"# ([\w-]+\.\w+)\n", text))]
    return [example for example in named if example[1].endswith(suffix)]


def command_lines(page: str) -> list[str]:
    """Every command that a page prints, without its comment."""
    lines = [line for text in fences(page, "sh") for line in text.splitlines()] + spans(page)
    return [part.strip() for line in lines for part in re.split(r"\s#\s|&&|[<>]", line) if part.strip().startswith(("python", "tox"))]


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_reference_is_current() -> None:
    current = reference()
    assert TEXTS["docs/configuration.md"] == current, "run `python -m bench.commands.reference > docs/configuration.md`"
    assert not re.findall(r"^.*\|  \|$", current, re.MULTILINE), "a field without a comment has no meaning"


@pytest.mark.parametrize("matrix", shipped())
def test_the_reference_has_every_key_of_a_cell(matrix: str) -> None:
    for named in load_study(matrix).cells:
        found = {re.sub(r"(data\.groups)\..*", r"\1", key) for key in flatten(named.cell.model_dump(mode="json"))}
        assert found - KEYS <= {"autoencoder.kind"}  # in the section's title


@pages
def test_paths_exist(page: str) -> None:
    named = {span for span in spans(page) if re.match(r"(bench|baselines|dit|tests|docs|\.github)/[\w./-]*$", span)}
    assert not sorted(path for path in named if not (ROOT / path).exists())


@pages
def test_modules_exist(page: str) -> None:
    """`bench.data.clips.open_frames`: a module, and perhaps a name in it."""
    for name in {name for text in (*spans(page), *command_lines(page)) for name in re.findall(r"\bbench(?:\.\w+)+", text)}:
        module, _, attribute = name.rpartition(".")
        file, whole = ((ROOT / each.replace(".", "/")).with_suffix(".py") for each in (module, name))
        if module == "bench":
            assert attribute in bench.__all__ or (ROOT / "bench" / attribute).exists(), name
            continue
        if not whole.exists():  # a name in a module, or one that a room gives to plug-ins
            room = file.with_suffix("")
            text = (room / "__init__.py").read_text() if room.is_dir() else file.read_text()
            assert re.search(rf'^(def|class) {attribute}\b|^    "{attribute}",$', text, re.MULTILINE), name


@pages
def test_links_resolve(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in map(slug, headings), target


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)", TEXTS["docs/README.md"]))
    assert linked == {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"}


@pages
def test_commands_are_real(page: str) -> None:
    environments = ConfigParser(strict=False)
    environments.read(ROOT / "tox.ini")
    for line in command_lines(page):
        words = shlex.split(line)
        if words[0] == "tox":
            assert "-e" not in words or f"testenv:{words[words.index('-e') + 1]}" in environments, line
        elif words[1:3] == ["-m", "bench"]:
            parse(words[3:])
        elif words[2].startswith(("bench.", "tests.")):
            place = ROOT / words[2].replace(".", "/")
            assert (place / "__main__.py").exists() or "__main__" in place.with_suffix(".py").read_text(), line
        else:
            assert words[2:4] == ["pip", "install"], line


def parse(words: list[str]) -> None:
    """Fails for a command that is not there, an option that it lacks or an argument that is missing. Runs nothing."""
    command = typer.main.get_command(app)
    while words and (inner := getattr(command, "commands", None)):
        assert words[0] in inner, words
        command, words = inner[words[0]], words[1:]
    if words and words != ["--help"]:
        command.make_context(command.name or "", words)


def test_the_reader_of_commands_sees_mistakes() -> None:
    parse(["check", "--base", "main", "--only", "train/*"])
    for wrong in (["chekc"], ["weights", "got", "i3d"]):
        with pytest.raises(AssertionError):
            parse(wrong)
    for wrong in (["run", "quick", "--fast"], ["sample", "-n", "16"]):
        with pytest.raises(Exception, match=r"(?i)no such option|missing"):
            parse(wrong)


def test_readme_names_every_command() -> None:
    rows = TEXTS["README.md"].partition("| command |")[2].partition("\n\n")[0]
    named = set(re.findall(r"^\| `(\w+)", rows, re.MULTILINE))
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert named == commands


def test_readme_is_skimmable() -> None:
    lines = TEXTS["README.md"].splitlines()
    assert len(lines) <= 110
    assert not [line for line in lines if len(line) > 120 and not line.startswith(("|", "!", "python"))]


@pages
def test_keys_exist(page: str) -> None:
    groups = "data|batching|autoencoder|objective|optimizer|budget|sampler|evaluation|acceleration|match"
    for text in (*spans(page), *command_lines(page)):
        for key in re.findall(rf"(?:^|[ `{{])((?:{groups})\.[a-z_.]+)(?=[ =:,`]|$)", text):
            assert key in KEYS or any(known.startswith(f"{key}.") for known in KEYS) or (ROOT / key).exists(), key


NUM_CELLS = {
    "parts.yaml": 9,
    "policies.yaml": 4,
    "predict.yaml": 6,
    "tuned.yaml": 6,
    "flips.yaml": 12,
    "contrasts.yaml": 15,
    "depths.yaml": 3,
    "my-videos.yaml": 6,
    "public.yaml": 3,
}


@pytest.mark.parametrize(("page", "name", "text"), examples(".yaml"))
def test_examples_of_yaml_load(page: str, name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "public.yaml":  # with the checkpoint that it names
        folder = save_checkpoint("UNetSpatioTemporalConditionModel", tmp_path / "svd")
        text = text.replace("pretrained:/weights/svd", f"baselines.pretrained:{folder}")
    (tmp_path / name).write_text(text)
    for _, module, code in examples(".py"):
        (tmp_path / module).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    if name == "policy.yaml":
        assert read_policy(tmp_path / name) != read_policy(None)
        return
    study = load_study(str(tmp_path / name))
    for named in study.cells:
        check_cell(named.cell)
    assert len(study.cells) == NUM_CELLS.get(name, 2)


def test_the_overrides_that_are_shown_load() -> None:
    lines = [shlex.split(line)[3:] for page in TEXTS for line in command_lines(page) if re.match("python -m bench (run|validate) ", line)]
    own = ("my_", "my-", "smallest")
    ready = [words[1:] for words in lines if len(words) > 2 and not any(part in word for word in words[1:] for part in own)]
    assert len(ready) >= 6
    for matrix, *others in ready:
        overrides = itertools.takewhile(lambda word: not word.startswith("--"), others)  # then options and their values
        for named in load_study(matrix, list(overrides)).cells:
            check_cell(named.cell)


def test_the_example_of_a_backbone_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = [text for _, name, text in examples(".py") if name == "my_backbone.py"]
    (tmp_path / "my_backbone.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_backbone", raising=False)
    spec = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=0)
    backbone = load_backbone("my_backbone:Tiny", spec)
    latents = [torch.zeros(4, 2, 3, 5)] * 2
    assert [tuple(found.shape) for found in backbone(latents, torch.tensor([0.0, 1.0]), None)] == [(4, 2, 3, 5)] * 2


def test_the_example_of_a_source_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = [text for _, name, text in examples(".py") if name == "my_data.py"]
    (tmp_path / "my_data.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_data", raising=False)
    fields = {"num_frames": 3, "height": 16, "width": 24, "num_train": 5, "num_val": 2, "num_test": 2}
    clips = load_clips(load_config({"source": "my_data", **fields}), tmp_path / "cache")
    assert {split: clip_set.shapes for split, clip_set in clips.splits.items()} == {
        split: ((3, 16, 24),) * num for split, num in (("train", 5), ("val", 2), ("test", 2))
    }
    assert all((clip[1] != clip[0]).any() for clip in clips.splits["train"].frames)


@pytest.mark.parametrize(("page", "name", "text"), [one for one in examples(".py") if one[1] not in ("my_backbone.py", "my_data.py")])
def test_examples_of_objects_are_what_their_entry_points_name(page: str, name: str, text: str) -> None:
    names: dict[str, object] = {}
    exec(compile(text, name, "exec"), names)
    points = tomllib.loads("\n".join(fences(page, "toml")))["project"]["entry-points"]
    objects = dict(value.split(":") for group in points.values() for value in group.values())
    made = names[objects[name.removesuffix(".py")]]
    first, second = np.random.default_rng(0).normal(size=(2, 8, 3))
    if callable(distance := getattr(made, "distance", None)):
        assert distance(first, first) == 0 < distance(first, second)
    if callable(measure := getattr(made, "measure", None)):
        assert measure(np.full((2, 3, 4, 5, 3), 7, dtype=np.uint8)) == {"brightness": 7.0}
    if isinstance(made, World):
        start = {parameter.name: parameter.trained[1] for parameter in made.parameters}
        what = Scene(start=start, seed=0, shape=(6, 20, 24), fps=made.fps, known=3)
        valid, twin = made.film(what), made.film(replace(what, altered=made.twins[0]))
        assert valid and twin and valid.frames.shape == (6, 20, 24, 3) and (valid.frames[1] != valid.frames[0]).any()
        assert (valid.frames[:3] == twin.frames[:3]).all() and (valid.frames[3:] != twin.frames[3:]).any()
        made.check({name: ((0.0, value),) for name, value in start.items()}, what.shape, what.fps)
    if callable(plan := getattr(made, "plan", None)):
        assert plan([0, 1, 2], [(1, 4, 8), (1, 8, 4), (1, 4, 8)], lambda item: 32, 64) == [[0, 2], [1]]
    if callable(opened := getattr(made, "open", None)):
        with opened(made.classes[0]) as camera:  # type: ignore[attr-defined]
            assert camera(0, 3).frames.shape == (3, made.height, made.width, 3)  # type: ignore[attr-defined]
    if callable(used := getattr(made, "used", None)):
        assert used(SimpleNamespace(samples=500)) == 0.5


def test_records_are_read_as_the_page_of_python_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "results", pair(1), matrix="quick")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(fences("docs/python.md", "python")[1], "docs/python.md", "exec"), names)
    assert len(names["losses"]) == 2 and all(names["losses"].values())


def test_the_page_of_python_names_every_column_and_call(tmp_path: Path) -> None:
    table = bench.results(write_run(tmp_path, pair(1)))
    named = set(re.findall(r"`([\w.]+)`", "".join(re.findall(r"^\| (`[^|]+) \|", TEXTS["docs/python.md"], re.MULTILINE))))
    assert set(table.columns) <= named
    assert {f"bench.{name}" for name in bench.__all__} <= set(re.findall(r"^\| `([\w.]+)\(", TEXTS["docs/python.md"], re.MULTILINE))


def test_twenty_questions_are_answered_by_paths() -> None:
    rows = re.findall(r"^\| ([^|]+\?) \| (.+) \|$", TEXTS["docs/architecture.md"], re.MULTILINE)
    assert len(rows) == 20
    assert all(re.search(r"`(bench|dit|baselines)/", answer) for _, answer in rows)


def test_entry_point_groups_are_read_somewhere() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "bench").rglob("*.py"))
    named = {group for text in TEXTS.values() for group in re.findall(r"unet_vs_dit\.[a-z_]+", text)}
    assert not sorted(group for group in named if group not in source)
    assert set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]) <= named
