"""Tables of results: what is written is read, rows are added below, and a table keeps its ends of lines."""

import pytest

from tests.benches import bench

FIELDS = ("name", "value")
ONE, TWO = {"name": "one, two", "value": "1"}, {"name": "three"}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_keeps_its_ends_of_lines(tmp_path, end):
    rows, path = bench("rows"), tmp_path / "table.csv"
    path.write_bytes(f"name,value{end}zero,0{end}".encode())
    rows.append(path, FIELDS, [ONE, TWO])
    assert path.read_bytes() == f'name,value{end}zero,0{end}"one, two",1{end}three,{end}'.encode()
    rows.write(path, FIELDS, rows.read(path)[1:])
    assert path.read_bytes() == f'name,value{end}"one, two",1{end}three,{end}'.encode()


def test_a_table_begins_with_its_fields_and_none_is_empty(tmp_path):
    rows, path = bench("rows"), tmp_path / "table.csv"
    assert rows.read(path) == rows.read(None) == []
    rows.append(path, FIELDS, [ONE])
    rows.append(path, FIELDS, rows.from_lines(FIELDS, [("third", 1 / 3), ("count", 2)]))
    assert rows.read(path) == [ONE, {"name": "third", "value": "0.3333"}, {"name": "count", "value": "2"}]
