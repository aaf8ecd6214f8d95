import re

from nnopt_lib.data.catalog import CATALOG
from nnopt_lib.data.page import overview


def test_every_set_has_a_row_with_its_license_and_every_file_a_line_with_its_hash():
    page = overview()
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", page, re.M))
    assert rows.keys() == CATALOG.keys()
    for name, entry in CATALOG.items():
        assert entry.license in rows[name] and f"]({entry.home})" in rows[name]
        for file in entry.files:
            (line,) = re.findall(rf"^- `{re.escape(file.path)}`.*$", page, re.M)
            assert line.endswith(f"sha256 `{file.sha256}`")
            assert all(f"({address})" in line for address in file.addresses)


def test_what_needs_no_download_has_no_files_below():
    listed = set(re.findall(r"^\*\*([\w-]+)\*\*$", overview(), re.M))
    assert listed == {name for name, entry in CATALOG.items() if entry.files} < set(CATALOG)
