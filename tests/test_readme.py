"README and home open with the same claims, whose verdicts are those of the findings."

import ast
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERDICTS = ("holds", "partly", "does not hold", "cannot be decided")


def words(page: str) -> str:
    "The text of a page's Markdown cells, without the marks of its numbers."
    cells = json.loads((ROOT / "nbs" / page).read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"<!--=[\w.]+-->|<!--/-->", "", text)


def claims(text: str) -> list[list[str]]:
    "The rows of the first table of claims: claim, verdict, evidence, page."
    rows = text[text.index("| the paper claims | verdict | evidence | page |") :].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_opens_with_the_claims_of_home():
    home = [[cell.replace("](", "](nbs/") for cell in row] for row in claims(words("index.ipynb"))]
    assert claims(readme()) == home, "copy the first table of nbs/index.ipynb into README.md"


def test_a_claim_has_one_verdict_on_all_pages():
    found = {claim: verdict for claim, verdict, *_ in claims(words("paper/findings.ipynb"))}
    assert all(any(f"**{verdict}**" in said for verdict in VERDICTS) for said in found.values())
    for claim, verdict, *_ in claims(words("index.ipynb")):
        assert found[claim] == verdict


def test_the_pages_of_claims_are_there():
    for _, _, _, page in claims(readme()):
        (link,) = re.findall(r"\]\((.+?)\)", page)
        assert (ROOT / link).is_file(), link


def test_twenty_lines_are_twenty_and_name_what_there_is():
    (code,) = re.findall(r"```python\n(.*?)```", readme(), re.S)
    assert len([line for line in code.splitlines() if line]) <= 20
    imports = [node for node in ast.parse(code).body if isinstance(node, ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "README.md", "exec"), {})
