"""No archive writes outside its folder, whatever its members are called."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.config import InputError
from helpers.fetch import download


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members:
            archive.writestr(zipfile.ZipInfo(name) if "\\" in name else name, body)
    return path


def make_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, body in members:
            info = tarfile.TarInfo(name)
            if isinstance(body, tuple):
                info.type, info.linkname = body[0], "target"
            else:
                info.size = len(body)
            archive.addfile(info, None if isinstance(body, tuple) else io.BytesIO(body))
    return path


FILES = [("model/a.pt", b"weights"), ("model/deep/vocab.txt", b"[PAD]\n")]


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz"])
def test_regular_files_and_no_needless_folder(tmp_path, kind):
    path = tmp_path / "archive"
    make_zip(path, FILES) if kind == "zip" else make_tar(path, FILES, kind)
    assert download.is_archive(path)
    found = download.unpack(path, tmp_path / "out")
    assert [p.relative_to(tmp_path / "out").as_posix() for p in found] == ["a.pt", "deep/vocab.txt"]
    assert found[0].read_bytes() == b"weights"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["archive", "out"]


@pytest.mark.fault("archives with paths outside")
@pytest.mark.parametrize(
    "name",
    ["../evil", "a/../../evil", "/etc/evil", "C:\\evil", "C:/evil", "a\\..\\evil", "a\nb", ".."],
)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_names_that_lead_elsewhere(tmp_path, make, name):
    (tmp_path / "in").mkdir()
    path = make(tmp_path / "in" / "archive", [("good", b"x"), (name, b"evil")])
    with pytest.raises(InputError, match=r"not unpacked|damaged"):
        download.unpack(path, tmp_path / "in" / "out")
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "archive"]


@pytest.mark.fault("archives with links or devices")
@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices(tmp_path, kind):
    path = make_tar(tmp_path / "archive.tar", [("good", b"x"), ("link", (kind,))])
    with pytest.raises(InputError, match="a link or a device"):
        download.unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("archives with links or devices")
def test_a_link_in_a_zip(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(InputError, match="a link or a device"):
        download.unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.fault("archives that unpack to absurd sizes")
def test_bombs(tmp_path, monkeypatch):
    bomb = make_zip(tmp_path / "bomb.zip", [("zeros", bytes(download.SMALL + 1))])
    with pytest.raises(InputError, match="no checkpoint does"):
        download.unpack(bomb, tmp_path / "out")
    monkeypatch.setattr(download, "TOTAL", 10)
    with pytest.raises(InputError, match="no checkpoint does"):
        download.unpack(make_tar(tmp_path / "big.tar", [("a", b"x" * 11)]), tmp_path / "out")
    monkeypatch.setattr(download, "MEMBERS", 1)
    with pytest.raises(InputError, match="more than 1"):
        download.unpack(make_tar(tmp_path / "many.tar", [("a", b""), ("b", b"")]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [("a", "A"), ("é", "é"), ("a", "a/b")])
def test_names_that_clash(tmp_path, names):
    path = make_tar(tmp_path / "x.tar", [(name, b"x") for name in names])
    with pytest.raises(InputError, match=r"twice|cannot be unpacked"):
        download.unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("damaged archives")
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_damaged(tmp_path, make):
    path = make(tmp_path / "archive", [("a", bytes(range(256)) * 300)])
    path.write_bytes(path.read_bytes()[:40_000] if make is make_tar else b"PK\x03\x04" + b"x" * 99)
    with pytest.raises(InputError, match="the archive is damaged"):
        download.unpack(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["archive"]


def test_torch_files_are_no_archives(tmp_path):
    assert not download.is_archive(make_zip(tmp_path / "model.pt", FILES))
    assert not download.is_archive(tmp_path)


PIECE = st.sampled_from(["..", ".", "", "a", "b", "C:", "\\", "~", "é", "COM1", " ", "a\x00b"])
NAMES = st.lists(PIECE, min_size=1, max_size=4).map("/".join) | st.text(max_size=8)
KINDS = st.sampled_from([b"x", b"", (tarfile.SYMTYPE,), (tarfile.LNKTYPE,), (tarfile.DIRTYPE,)])


@pytest.mark.fault("archives with random names (hypothesis)")
@settings(max_examples=150, deadline=None)
@given(members=st.lists(st.tuples(NAMES, KINDS), max_size=5), tar=st.booleans())
def test_nothing_is_written_outside(tmp_path_factory, members, tar):
    top = tmp_path_factory.mktemp("top")
    place = top / "one" / "two"
    place.mkdir(parents=True)
    path = place / "archive"
    try:
        if tar:
            make_tar(path, members)
        else:
            make_zip(path, [(n, b) for n, b in members if isinstance(b, bytes)])
    except (ValueError, UnicodeError, IndexError):  # a name that the format itself cannot hold
        return
    before = {p: p.stat().st_mtime_ns for p in top.rglob("*") if p.is_file()}
    try:
        for file in download.unpack(path, place / "out"):
            assert file.is_file() and not file.is_symlink()
            assert (place / "out") in file.resolve().parents
    except InputError:
        assert not (place / "out").exists()
    outside = [p for p in top.rglob("*") if place / "out" not in (p, *p.parents)]
    assert {p for p in outside if p.is_file()} == set(before)
    assert not any(p.is_symlink() for p in top.rglob("*"))
