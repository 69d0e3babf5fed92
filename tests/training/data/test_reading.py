"""The same records from every kind of source; bad lines are named, or counted."""

import json
import logging

import pytest

from refrag_rag.errors import InputError
from refrag_rag.training.data.reading import Skipped, read_records
from refrag_rag.training.data.records import text_record

RECORDS = [{"id": str(n), "text": f"Text {n} \u2028 é 🙂"} for n in range(5)]


def records_of(source, **options):
    return list(read_records([source], dict, **options))


@pytest.fixture
def saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    return datasets.Dataset.from_list, tmp_path / "saved"


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.xz"])
def test_every_compression_reads_the_same(write, name):
    path = write(name, RECORDS)
    assert records_of(path) == records_of(str(path)) == RECORDS


def test_a_folder_is_read_in_the_order_of_names(write, tmp_path):
    write("b.jsonl.xz", RECORDS[3:])
    write("a.jsonl.gz", RECORDS[:3])
    (tmp_path / "readme.txt").write_text("not read")
    assert records_of(tmp_path) == RECORDS


def test_byte_order_mark_blank_lines_and_line_ends(write):
    lines = [json.dumps(record).encode() for record in RECORDS]
    path = write("a.jsonl", [b"\xef\xbb\xbf" + lines[0] + b"\r", b"", b"  ", *lines[1:]])
    assert records_of(path) == RECORDS  # the last line has no line end


def test_saved_datasets_read_the_same(saved):
    from_list, folder = saved
    from_list(RECORDS).save_to_disk(folder)
    assert records_of(f"hf:{folder}") == RECORDS
    from_list([*RECORDS, {"id": "5", "text": ""}]).save_to_disk(f"{folder}-bad")
    with pytest.raises(InputError, match=rf"^hf:{folder}-bad, row 5: field 'text' is ''"):
        list(read_records([f"hf:{folder}-bad"], text_record))
    with pytest.raises(InputError, match=r"split 'train'\) cannot be loaded"):
        records_of(f"hf:{folder}", split="train")


def test_saved_splits_are_chosen_by_name(saved):
    import datasets

    from_list, folder = saved
    both = {"train": from_list(RECORDS[:2]), "test": from_list(RECORDS[2:])}
    datasets.DatasetDict(both).save_to_disk(folder)
    assert records_of(f"hf:{folder}", split="test") == RECORDS[2:]
    with pytest.raises(InputError, match=r"has the splits train, test; expected one"):
        records_of(f"hf:{folder}")
    with pytest.raises(InputError, match=r"splits train, test; expected one of them, not 'dev'"):
        records_of(f"hf:{folder}", split="dev")


@pytest.mark.parametrize("split", [None, "train"])
def test_files_of_the_datasets_library_read_the_same(write, saved, tmp_path, split):
    from_list, _ = saved
    path = tmp_path / "rows.parquet"
    from_list(RECORDS).to_parquet(path)
    assert records_of(f"hf:{path}", split=split) == RECORDS
    assert records_of(f"hf:{write('rows.jsonl', RECORDS)}", split=split) == RECORDS
    with pytest.raises(InputError, match=r"split 'dev'\) cannot be loaded"):
        records_of(f"hf:{path}", split="dev")


def test_a_damaged_dataset_names_the_row(write, saved):
    path = write("rows.jsonl", [*RECORDS, b"{"])
    with pytest.raises(InputError, match=r"rows\.jsonl cannot be read at row \d"):
        records_of(f"hf:{path}")


BAD = [
    (b'{"text": "half', "line: not JSON", r"is not JSON"),
    (b"[1, 2]", "line: not an object", r"'\[1, 2\]' is list, not an object"),
    (b'{"text": "\xff"}', "line: not UTF-8", r"byte 0xff at 10 of the line is not UTF-8"),
    (b"[" * 100_000, "line: not JSON", r"is not JSON"),
]


@pytest.mark.parametrize(("line", "reason", "message"), BAD)
def test_a_bad_line_is_named_or_counted(write, line, reason, message, caplog):
    path = write("a.jsonl", [b"\xef\xbb\xbf" + json.dumps(RECORDS[0]).encode(), line, b"", line])
    with pytest.raises(InputError, match=rf"a\.jsonl, line 2: .*{message}.*expected one JSON obj"):
        records_of(path)
    skipped = Skipped()
    with caplog.at_level(logging.WARNING):
        assert records_of(path, skipped=skipped) == RECORDS[:1]
    assert skipped == {reason: 2}
    assert "line 4" in caplog.text


def test_a_bad_field_is_named_with_what_is_there(write):
    write("b.jsonl", [*RECORDS, {"body": "x", "id": 1}])
    path = write("a.jsonl", RECORDS)
    expected = r"b\.jsonl, line 6: field 'text' is missing; .*\(there: 'body', 'id'\)\. Correct the"
    with pytest.raises(InputError, match=expected):
        list(read_records([path.parent], text_record))


def test_not_every_bad_line_is_logged(write, caplog):
    path = write("a.jsonl", [b"{"] * 50)
    skipped = Skipped()
    assert records_of(path, skipped=skipped) == []
    assert skipped.total() == 50
    assert len(caplog.records) == 4


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.xz"])
def test_a_file_that_was_cut_off_is_an_error_in_every_mode(write, name):
    path = write(name, [{"text": str(n) * 50} for n in range(2000)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=rf"{name} cannot be read after line \d+ "):
        records_of(path, skipped=Skipped())


def test_sources_are_looked_for_at_once(tmp_path):
    with pytest.raises(InputError, match=r"gone\.jsonl does not exist; expected a \.jsonl"):
        records_of(tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match=r"has no \.jsonl, \.jsonl\.gz, \.jsonl\.xz file in it"):
        records_of(tmp_path)
    (tmp_path / "a.csv").write_text("text")
    with pytest.raises(InputError, match=r"a\.csv is of no known kind.*hf:"):
        records_of(tmp_path / "a.csv")
    (tmp_path / "a.zip").write_text("?")
    with pytest.raises(InputError, match=r"a\.zip \(config None.*cannot be loaded"):
        records_of(f"hf:{tmp_path / 'a.zip'}")


def test_options_are_checked(write):
    path = write("a.jsonl", RECORDS)
    with pytest.raises(InputError, match="expected them only for data sets"):
        records_of(path, split="train")
    with pytest.raises(InputError, match=r"config 'en'.*cannot be loaded"):
        records_of(f"hf:{path}", name="en")
