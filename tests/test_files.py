"Reading and writing: what is too large, too deep, twice there, or no regular file."

import gzip
import json
import os
import stat
import threading
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from prompt_transferability.files import (
    SIZE_LIMIT,
    atomic_write,
    is_printable,
    open_text,
    parse_json,
    parse_yaml,
    printable,
    read_json,
    read_tensors,
    read_text,
    save_tensors,
    size_limit,
    tensor_header,
)

LIMIT = "PROMPT_TRANSFERABILITY_MAX_BYTES"


class WrongError(ValueError):
    "What a room would raise."


def refused(function, *given, match):
    with pytest.raises(WrongError, match=match) as error:
        function(*given)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


# ---- size and text


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "ROWS.GZ"])
def test_large_files_are_refused_until_the_limit_is_raised(tmp_path, monkeypatch, name):
    file, text = tmp_path / name, b"0123456789" * 1000
    file.write_bytes(gzip.compress(text) if name.lower().endswith("gz") else text)
    assert len(read_text(file, WrongError)) == 10_000
    monkeypatch.setenv(LIMIT, "9999")
    refused(read_text, file, WrongError, match="contains more than 9,999 bytes; set PROMPT_TRANSFERABILITY_MAX_BYTES")
    monkeypatch.setenv(LIMIT, "10000")
    assert len(read_text(file, WrongError)) == 10_000


def test_a_file_whose_lines_are_counted_may_be_read_whole(tmp_path, monkeypatch):
    file = tmp_path / "rows.jsonl"
    file.write_text("0123456789\n" * 100)
    monkeypatch.setenv(LIMIT, "10")
    with open_text(file, WrongError, by_line=True) as lines:
        assert lines.read() == "0123456789\n" * 100


@pytest.mark.parametrize("given", ["1e9", "-1", "0", "lots", "9" * 30, "²"])
def test_a_limit_that_is_no_number_is_named(monkeypatch, given):
    monkeypatch.setenv(LIMIT, given)
    with pytest.raises(ValueError, match="PROMPT_TRANSFERABILITY_MAX_BYTES is .*whole number of bytes"):
        size_limit()
    monkeypatch.setenv(LIMIT, "")
    assert size_limit() == SIZE_LIMIT


def test_a_bomb_is_noticed_before_it_is_in_memory(tmp_path):
    file = tmp_path / "bomb.jsonl.gz"
    with gzip.open(file, "wb", compresslevel=9) as out:
        for _ in range(400):
            out.write(bytes(2**20))
    started = time.monotonic()
    with open_text(file, WrongError) as lines:
        refused(lambda: [len(lines.read(2**20)) for _ in range(500)], match="contains more than 268,435,456 bytes")
    assert time.monotonic() - started < 5


def test_pointers_of_git_lfs_are_named(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    for read in (read_text, read_json, tensor_header):
        refused(read, file, WrongError, match="is a Git LFS pointer, not the file itself; .*git lfs pull")


# ---- JSON and YAML


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{'a': 1}", "is not JSON"),
        ("[" * 101 + "]" * 101, "nested too deeply"),
        ("[" * 1_000_000, "nested too deeply"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested too deeply"),
        ("9" * 4301, "more than 4,300 digits"),
        ('{"a": {"b": [1, 2, -' + "1" * 5000 + "]}}", "more than 4,300 digits"),
        ('{"a": 1, "a": 1}', "has the key 'a' twice"),
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "has the key 'b' twice"),
        ('[{"": 1, "": 2}]', "has the key '' twice"),
    ],
)
def test_json_that_is_refused(text, message):
    refused(parse_json, text, "the header", WrongError, match=f"^the header .*{message}")


def test_json_that_is_read():
    deep = parse_json("[" * 100 + "]" * 100, "x", WrongError)
    assert json.dumps(deep) == "[" * 100 + "]" * 100
    assert parse_json('{"a": 1, "a": 2}', "x", WrongError, once=False) == {"a": 2}
    started = time.monotonic()
    assert len(parse_json(json.dumps({str(i): i for i in range(10**5)}), "x", WrongError)) == 10**5
    assert time.monotonic() - started < 5


def aliases(levels):
    names = "abcdefghijkl"[: levels + 1]
    rows = [f"a: &a [{', '.join(['x'] * 10)}]"]
    rows += [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip(names, names[1:], strict=False)]
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (aliases(6), "expands to more than 100,000 values"),
        (aliases(11), "expands to more than 100,000 values"),
        ("&a [*a]", "an alias that contains itself"),
        ("a: &a {b: {c: *a}}", "an alias that contains itself"),
        ("a: 1\nb: 2\na: 3", "has the key 'a' twice"),
        ("a: {x: 1, y: {b: 1, b: 1}}", "has the key 'b' twice"),
        ("when: 2020-13-45", "has '2020-13-45' where its form indicates a value of type timestamp; put texts into"),
        ("when: !!timestamp foo", "has 'foo' where its form indicates a value of type timestamp"),
        ("flag: !!bool x", "has 'x' where its form indicates a value of type bool"),
        ("n: [1, {a: !!int x}]", "has 'x' where its form indicates a value of type int"),
        ("? !!int x\n: 1", "has 'x' where its form indicates a value of type int"),
        ("n: " + "9" * 4301, "has '9{60}' where its form indicates a value of type int"),
        ("n: !!float x", "has 'x' where its form indicates a value of type float"),
        ('n: !!float ""', "has '' where its form indicates a value of type float"),
        ('n: !!int ""', "has '' where its form indicates a value of type int"),
        ("n: !!int 0b", "has '0b' where its form indicates a value of type int"),
        ("at: 2020-01-01T99:00:00", "has '2020-01-01T99:00:00' where its form indicates a value of type timestamp"),
        ("x: !!binary é", "is not YAML"),
        ("x: !!python/object/apply:os.system ['true']", "is not YAML"),
        ("[" * 1000, "nested too deeply|is not YAML"),
        ("[" * 1000 + "]" * 1000, "nested too deeply"),
        ("[" * 101 + "]" * 101, "nested too deeply"),
        ("? [a]\n: 1\n? {b: 1}\n: 2", "is not YAML"),
        ("a: b: c", "is not YAML"),
        ("a: \x00", "is not YAML"),
        ("--- 1\n--- 2", "is not YAML"),
        ("- x\n" * 30_000, "has 120,000 characters"),
    ],
)
def test_yaml_that_is_refused(text, message):
    started = time.monotonic()
    refused(parse_yaml, text, "study.yaml", WrongError, match=f"^study.yaml .*({message})")
    with pytest.raises(ValueError, match=f"^study.yaml .*({message})"):
        parse_yaml(text, "study.yaml", ValueError)
    assert time.monotonic() - started < 5


def test_yaml_that_is_read():
    assert parse_yaml("", "x", WrongError) is None
    assert parse_yaml("a: &a [1, 2]\nb: *a\nc: {<<: {d: 1}, e: 2}", "x", WrongError) == {
        "a": [1, 2],
        "b": [1, 2],
        "c": {"d": 1, "e": 2},
    }


# ---- tensors

KINDS = {
    "wide": torch.arange(6, dtype=torch.float64).view(2, 3),
    "plain": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "half": torch.ones(5).half(),
    "brain": torch.ones(2, 2).bfloat16(),
    "counts": torch.arange(4),
    "bytes": torch.arange(3, dtype=torch.uint8),
    "flags": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "nothing": torch.zeros(0, 7),
}


def test_tensors_come_back_and_the_library_reads_them_too(tmp_path):
    file = tmp_path / "all.safetensors"
    save_tensors(KINDS, file, {"a": "é\n"})
    texts, ours = read_tensors(file, WrongError)
    assert texts == {"a": "é\n"}
    for read in (ours, load_file(file)):
        assert read.keys() == KINDS.keys()
        assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in KINDS.items())


def test_equal_content_is_equal_bytes(tmp_path):
    texts = {f"entry {i}": str(i) for i in range(20)}
    for i, names in enumerate((KINDS, reversed(KINDS), sorted(KINDS))):
        order = dict(reversed(texts.items())) if i else texts
        save_tensors({name: KINDS[name] for name in names}, tmp_path / str(i), order)
    assert len({(tmp_path / str(i)).read_bytes() for i in range(3)}) == 1


@pytest.mark.parametrize("kind", [torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint64])
def test_types_that_no_room_uses_are_refused(tmp_path, kind):
    save_file({"x": torch.zeros(2, 2).to(kind)}, tmp_path / "x")
    refused(read_tensors, tmp_path / "x", WrongError, match="'x' contains 'x' as .*; expected numbers of type F64")


# ---- writing


def test_links_are_written_through_and_never_replaced(tmp_path):
    target, link, twice = tmp_path / "there" / "kept", tmp_path / "link", tmp_path / "twice"
    link.symlink_to(target)
    twice.symlink_to(link)
    with atomic_write(twice) as unfinished:
        unfinished.write_text("new")
    assert target.read_text() == "new" and link.is_symlink() and twice.is_symlink()
    assert [path.name for path in target.parent.iterdir()] == ["kept"]


def test_a_planted_link_beside_the_file_leads_nowhere(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("whole")
    (tmp_path / "out.part").symlink_to(victim)
    with atomic_write(tmp_path / "out") as unfinished:
        unfinished.write_text("new")
    assert victim.read_text() == "whole" and (tmp_path / "out").read_text() == "new"
    assert not (tmp_path / "out").is_symlink()


def test_a_circle_of_links_is_an_error_of_the_system(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError), atomic_write(tmp_path / "a" / "file") as unfinished:
        unfinished.write_text("new")


def test_a_pipe_gets_the_bytes_and_stays_a_pipe(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with atomic_write(pipe) as unfinished:
        unfinished.write_bytes(b"whole")
    reader.join(timeout=10)
    assert read == [b"whole"] and stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_to():
    with atomic_write("/dev/null") as unfinished:
        unfinished.write_bytes(b"gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_who_may_read_new_files_may_read_these(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "x") as unfinished:
            save_tensors({"x": torch.zeros(2)}, unfinished, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~umask


# ---- names on a screen


@pytest.mark.parametrize(
    "text", ["a\nb", "a\rb", "\x1b[31m", "\x00", "\x9b1m", "\u2028", "\u202egpj.exe", "\ud800", "\x7f"]
)
def test_what_commands_a_terminal_is_shown_as_what_it_is(text):
    assert not is_printable(text)
    assert is_printable(printable(text)) and printable(text).encode().decode() == printable(text)
    assert printable("a\nb\x1b", "\n") == "a\nb\\x1b"


def test_a_link_that_leads_back_to_itself_is_never_replaced(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="leads back to itself; choose another file"), atomic_write(loop) as part:
        part.write_text("x")
    assert loop.is_symlink()


def test_a_full_disk_is_told_with_the_files_name(tmp_path):
    with pytest.raises(OSError, match="No space left on device; .*'/dev/full'"), atomic_write("/dev/full") as part:
        part.write_text("x")
    (tmp_path / "file").write_text("kept")
    with (
        pytest.raises(OSError, match="(File exists|Not a directory); .*file/below"),
        atomic_write(tmp_path / "file" / "below") as part,
    ):
        part.write_text("x")
    assert (tmp_path / "file").read_text() == "kept"


def test_what_is_wrong_with_another_file_is_not_laid_to_the_one_that_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing'$"), atomic_write(tmp_path / "out") as part:
        part.write_text((tmp_path / "missing").read_text())
