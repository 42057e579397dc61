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


def test_what_is_measured_anew_stands_where_it_stood_and_once(tmp_path):
    rows, path = bench("rows"), tmp_path / "table.csv"
    fields, key = ("run", "score", "auroc"), ("run", "score")
    old = [("a", "flow", 0.5), ("a", "bound", 0.25), ("a", "flow", 0.5), ("b", "flow", 1.0), ("a", "bound", 0.25)]
    rows.append(path, fields, rows.from_lines(fields, old))  # two of them twice, of which one is measured anew
    new = [{"run": "a", "score": "flow", "auroc": 0.75}, {"run": "c", "score": "flow", "auroc": 0.0}]
    for _ in range(2):  # once or again
        rows.replace(path, fields, new, key)
        lines = [
            ("a", "flow", "0.75"),
            ("a", "bound", "0.2500"),
            ("b", "flow", "1.0000"),
            ("a", "bound", "0.2500"),
            ("c", "flow", "0.0"),
        ]
        assert rows.read(path) == [dict(zip(fields, line, strict=True)) for line in lines]


def test_an_empty_field_of_a_key_may_be_left_out(tmp_path):
    rows, path = bench("rows"), tmp_path / "table.csv"
    fields, key = ("method", "calls", "value"), ("method", "calls")
    for value in (1, 2):
        rows.replace(
            path, fields, [{"method": "exact draws", "value": value}, {"method": "heun", "calls": 20, "value": value}], key
        )
    assert rows.read(path) == [
        {"method": "exact draws", "calls": "", "value": "2"},
        {"method": "heun", "calls": "20", "value": "2"},
    ]
