"""Pages as Jinja templates: the words are in the templates, the numbers come from records."""

from pathlib import Path

import jinja2

FOLDER = Path(__file__).parent


def render(name: str, **values: object) -> str:
    """Fill in a template; a name that it uses but does not get is an error."""
    loader = jinja2.FileSystemLoader(FOLDER)
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, autoescape=name.endswith(".html.j2"), trim_blocks=True
    )
    environment.filters["n"] = lambda value, decimals=0: f"{value:,.{decimals}f}"
    return environment.get_template(name).render(**values) + "\n"


def asset(name: str) -> str:
    """Return the text of a file next to the templates."""
    return (FOLDER / name).read_text(encoding="utf-8")
