"""README.md of the models is what the code says, and its example of a new family works."""

import re
from pathlib import Path

from pipeline.models import MODELS, conformance, describe, registry

README = Path(describe.__file__).parent / "README.md"


def test_the_readme_is_what_the_code_says():
    text = "python -c 'from pipeline.models.describe import markdown; print(markdown(), end=\"\")' > pipeline/models/README.md"
    assert README.read_text() == describe.markdown(), text


def test_every_hyperparameter_has_values_a_default_and_a_meaning():
    for name, family in MODELS.items():
        rows = describe.hyperparameters(family.Config)
        assert [row["hyperparameter"] for row in rows] == list(family.Config.model_fields)
        for row in rows:
            assert all(row.values()) and "Undefined" not in row["default"] and row["values"] != "None", (name, row)


def test_all_families_are_in_it_and_tables_are_whole():
    text = README.read_text()
    assert re.findall(r"^## (\w+)$", text, re.M)[: len(MODELS)] == list(MODELS) and "Undefined" not in text
    for line in text.splitlines():
        if line.startswith("| `"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 5, line


def test_the_example_of_a_new_family_is_conformant(tmp_path, monkeypatch):
    (example,) = re.findall(r"```python\n(\"\"\".*?)```", describe.ADDING, re.S)
    (tmp_path / "counts_of_the_readme.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    path = "counts_of_the_readme:Counts"
    for check in conformance.CHECKS:
        check(path)
    assert registry.key_of(registry.find(path))["family"] == path
    own = describe.markdown({"counts": registry.find(path)})
    assert "| `power` | number > 0 | `1.0` | Exponent of the counts. |" in own and "## Training" not in own
