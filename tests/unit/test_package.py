"""What the package says of itself: one version, links that hold on the package index, a workflow that runs `make`."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import tinydistilbert

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
REPOSITORY = PROJECT["urls"]["Homepage"]
INSTALL = (ROOT / "docs/how-to/install.md").read_text(encoding="utf-8")
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))


def readme_on_the_index() -> str:
    """The README as the build makes it."""
    hook = SETTINGS["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = "".join((ROOT / fragment["path"]).read_text(encoding="utf-8") for fragment in hook["fragments"])
    for change in hook["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    return text


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\d\S*) – (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert versions[0] == (tinydistilbert.__version__, citation["date-released"])
    assert citation["version"] == tinydistilbert.__version__


def test_every_address_is_in_the_one_repository() -> None:
    files = [ROOT / "mkdocs.yml", ROOT / "CITATION.cff", ROOT / "README.md", *(ROOT / ".github").rglob("*.yml")]
    files += [*(ROOT / "src/tinydistilbert/recipe/presets").glob("*.toml"), ROOT / "pyproject.toml"]
    repositories = {}
    for path in files:
        for owner in re.findall(
            r"(?:github|raw\.githubusercontent)\.com/([\w-]+/tinydistilbert)\b", path.read_text("utf-8")
        ):
            repositories[owner] = path
    assert list(repositories) == [REPOSITORY.removeprefix("https://github.com/")], repositories


def test_links_of_the_readme_hold_on_the_package_index() -> None:
    before = re.findall(r"\]\(([^)\s]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    after = re.findall(r"\]\(([^)\s]+)\)", readme_on_the_index())
    assert len(before) == len(after) > 20
    assert [link for link in after if not link.startswith(("https://", "#"))] == []
    for old, new in zip(before, after, strict=True):
        assert new == old or new.endswith(f"/main/{old}")
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", readme_on_the_index())
    assert pictures and all(link.startswith("https://raw.githubusercontent.com/") for link in pictures)


def test_the_page_about_installing_names_every_extra() -> None:
    named = {
        extra for extras in re.findall(r"`(?:tinydistilbert)?\[([\w,]+)\]`", INSTALL) for extra in extras.split(",")
    }
    assert named == set(PROJECT["optional-dependencies"])


def test_the_tools_are_no_extra() -> None:
    assert {"dev", "mutation"} == set(SETTINGS["dependency-groups"])
    assert not {"dev", "mutation"} & set(PROJECT["optional-dependencies"])
    assert "--group dev" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_workflow_runs_what_a_developer_runs() -> None:
    jobs = WORKFLOW["jobs"]
    systems = {row["os"].partition("-")[0] for row in jobs["test"]["strategy"]["matrix"]["include"]}
    assert systems == {"ubuntu", "macos", "windows"}
    commands = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", commands))
    assert {"test", "check"} <= named <= targets
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for setting in (
        "-e '.[offline,onnx,elmo,serve,sweep]' --group dev",
        '-m "not slow and not gpu"',
        "--maxprocesses 4 --dist loadfile --no-loadscope-reorder",
    ):
        assert setting in commands and setting in makefile and setting in INSTALL
    checks = re.search(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert checks and all(line.split("/")[1] in INSTALL for line in checks[1].splitlines())
    tried = {row["python"] for row in jobs["test"]["strategy"]["matrix"]["include"]}
    stated = {name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)}
    assert tried == stated


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_forms_and_workflows_are_yaml(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    for field in content.get("body", ()):
        assert field["type"] == "markdown" or field["attributes"]["label"]
