"""The hooks of the site (mkdocs.yml): pages that are made, and links to files outside ``docs``.

README, CONTRIBUTING and the READMEs of clients become pages; every other file of the repository
that a page links to becomes a file of the site. So a link that leads somewhere in a checkout leads
somewhere on the site, and nowhere else.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "clients/javascript/README.md": "clients/javascript.md",
    "config/README.md": "reference/config.md",
}
SITE = {site: repository for repository, site in PAGES.items()}
SOURCE = "source"  # folder of the site for files of the repository
API = "reference/api"
_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?(?:\s[^)]*)?\))")
_HIDDEN = ("_", "testing")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and the files that pages link to."""
    made = {site: (ROOT / repository).read_text() for repository, site in PAGES.items()}
    made |= dict(_api())
    made["reference/settings.md"] = _settings()
    made["reference/http.md"] = _http()
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    linked: set[str] = set()
    for file in files.documentation_pages():
        text = made.get(file.src_uri) or (ROOT / "docs" / file.src_uri).read_text()
        linked |= {target for target in _targets(file.src_uri, text) if _is_outside(target)}
    for target in sorted(linked):
        place = ROOT / target
        name = f"{SOURCE}/{target}"
        if place.is_dir():
            inside = sorted(each.name for each in place.iterdir() if each.name[0] not in "._")
            rows = [f"- `{each}`" for each in inside]
            text = f"# {target}\n\n" + "\n".join(rows) + "\n"
            files.append(File.generated(config, f"{name}/index.md", content=text))
        elif place.is_file():
            files.append(File.generated(config, f"{name}.txt", abs_src_path=str(place)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page with its links as the site has them."""
    del config, files
    here = page.file.src_uri

    def moved(found: re.Match[str]) -> str:
        if "://" in found[2] or found[2].startswith("mailto:"):
            return found[0]
        target = _repository_path(here, found[2])
        link = posixpath.relpath(_site_path(target), posixpath.dirname(here) or ".")
        return f"{found[1]}{link}{found[3]}"

    return _LINK.sub(moved, markdown)


def _repository_path(page: str, link: str) -> str:
    """Return the path in the repository of a link on a page of the site."""
    origin = SITE.get(page, f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def _site_path(target: str) -> str:
    if target in PAGES:
        return PAGES[target]
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    if (ROOT / target).is_dir():
        return f"{SOURCE}/{target}/index.md"
    return f"{SOURCE}/{target}.txt"


def _is_outside(target: str) -> bool:
    return target not in PAGES and not target.startswith(("docs/", ".."))


def _targets(page: str, text: str) -> set[str]:
    links = {found[2] for found in _LINK.finditer(text)}
    return {_repository_path(page, link) for link in links if "://" not in link}


def _api() -> dict[str, str]:
    """Return a page for each public module, and their list."""
    pages: dict[str, str] = {}
    rows = [
        "# API",
        "",
        "Every public module, from its docstrings. Programs use `soulsai.api`.",
        "",
    ]
    for path in sorted((ROOT / "soulsai").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if any(part.startswith(_HIDDEN) and part != "__init__" for part in parts[1:]):
            continue
        name = ".".join(part for part in parts if part != "__init__")
        options = "    options:\n      show_root_heading: false\n"
        pages[f"{API}/{name}.md"] = f"# {name}\n\n::: {name}\n{options}"
        rows.append(f"- [`{name}`]({name}.md)")
    return pages | {f"{API}/index.md": "\n".join(rows) + "\n"}


def _settings() -> str:
    text = (ROOT / "config" / "config_d.yaml").read_text()
    intro = "Every setting with its default, as `soulsai config --defaults` prints them."
    return f"# Settings\n\n{intro}\n\n```yaml\n{text}```\n"


def _http() -> str:
    """Return the operations of the page's API as a page."""
    described = ROOT / "docs" / "reference" / "openapi.json"
    document: dict[str, Any] = json.loads(described.read_text())
    intro = "The API of [the page](../web.md), from [its OpenAPI document](openapi.json)."
    lines = ["# HTTP API", "", intro, ""]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            lines += [f"## {method.upper()} {path}", "", operation.get("description", ""), ""]
            parameters = operation.get("parameters", [])
            if parameters:
                lines += ["| parameter | in | |", "|---|---|---|"]
            for each in parameters:
                lines.append(f"| `{each['name']}` | {each['in']} | {each.get('description', '')} |")
            lines.append("")
    return "\n".join(lines)
