"""Archives: whose members lead elsewhere, that are damaged, encrypted, nested, large, or of another kind."""

from __future__ import annotations

import io
import os
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from look_alikes import content

from opengait.prepare import archives, prepare, unpack

SEQUENCE = "001/nm-01/000"


def png(shift: int = 0) -> bytes:
    image = np.zeros((60, 80), np.uint8)
    image[10:50, 30 + shift : 42 + shift] = 255
    return cv2.imencode(".png", image)[1].tobytes()


FRAMES = {f"{SEQUENCE}/{number:03d}.png": png(number) for number in range(6)}


def tar(members: dict[str, bytes], mode: str = "w", extra: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        for info in extra:
            file.addfile(info)
    return buffer.getvalue()


def zipped(members: dict[str, bytes], extra: tuple[tuple[zipfile.ZipInfo, bytes], ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
        for info, data in extra:
            file.writestr(info, data)
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return (info,)


def zip_special(name: str, mode: int, target: str = "") -> tuple[tuple[zipfile.ZipInfo, bytes]]:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return ((info, target.encode()),)


@pytest.fixture
def download(tmp_path) -> Callable[..., Path]:
    """Writes files into a raw folder; gives the folder."""

    def write(**files: bytes) -> Path:
        raw = tmp_path / "raw"
        raw.mkdir(exist_ok=True)
        for name, data in files.items():
            (raw / name.replace("__", ".")).write_bytes(data)
        return raw

    return write


@pytest.fixture
def wanted(tmp_path) -> dict[str, bytes]:
    """What a preparation of FRAMES gives."""
    for name, data in FRAMES.items():
        path = tmp_path / "folders" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    prepare("CASIA-B", tmp_path / "folders", tmp_path / "wanted", workers=1)
    return content(tmp_path / "wanted")


HOSTILE = {
    "a__tar__gz": tar({"../../evil.png": png()}, "w:gz"),
    "b__tar": tar({f"{SEQUENCE}/001.png": png(), "/tmp/evil.png": png()}),
    "c__zip": zipped({"001/../../evil.png": png()}),
    "d__zip": zipped({"..\\evil.png": png()}),
    "e__zip": zipped({"C:\\evil.png": png()}),
    "f__tgz": tar(FRAMES, "w:gz", special("001/evil", tarfile.SYMTYPE, "../../../etc")),
    "g__tgz": tar(FRAMES, "w:gz", special("001/evil.png", tarfile.SYMTYPE, "/etc/passwd")),
    "h__tar": tar(FRAMES, "w", special("001/evil.png", tarfile.LNKTYPE, "../evil.png")),
    "i__tar": tar(FRAMES, "w", special("001/evil.png", tarfile.CHRTYPE)),
    "j__tar": tar(FRAMES, "w", special("001/evil.png", tarfile.FIFOTYPE)),
    "k__zip": zipped(FRAMES, zip_special("001/evil", stat.S_IFLNK | 0o777, "../../evil")),
    "l__zip": zipped(FRAMES, zip_special("001/evil", stat.S_IFCHR | 0o777)),
    "m__zip": zipped({"n.tar.gz": tar({"../evil.png": png()}, "w:gz")}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_archives_that_lead_elsewhere_are_refused_by_name(name, download, tmp_path):
    raw = download(**{name: HOSTILE[name]})
    before = content(raw)
    with pytest.raises(ValueError, match=r"(?s)member '.*evil.*the archive is refused") as refused:
        prepare("CASIA-B", raw, tmp_path / "out", workers=1)
    said = str(refused.value)
    assert "\n" not in said
    assert name.replace("__", ".") in said or "n.tar.gz" in said
    assert content(raw) == before
    assert not list(tmp_path.rglob("evil*"))
    assert not list(tmp_path.glob("out/[0-9]*"))


def test_links_within_an_archive_are_read(download, tmp_path, wanted):
    plain = dict(list(FRAMES.items())[:5])
    plain["files/last.png"] = FRAMES[f"{SEQUENCE}/005.png"]
    link = special(f"{SEQUENCE}/005.png", tarfile.SYMTYPE, "../../../files/last.png")
    report = prepare("CASIA-B", download(a__tar=tar(plain, "w", link)), tmp_path / "out", workers=1)
    assert report.frames == 6
    assert (tmp_path / "out" / SEQUENCE / "000.pkl").read_bytes() == wanted[f"{SEQUENCE}/000.pkl"]


@pytest.mark.parametrize("name", ["a__tar", "a__tar__gz", "a__tar__bz2", "a__txz", "a__zip", "GaitDatasetB-silh__zip"])
def test_every_kind_of_archive_is_read(name, download, tmp_path, wanted):
    suffix = name.split("__", 1)[1]
    mode = {"tar": "w", "tar__gz": "w:gz", "tar__bz2": "w:bz2", "txz": "w:xz"}.get(suffix)
    data = tar(FRAMES, mode) if mode else zipped(FRAMES)
    if name.startswith("Gait"):
        data = zipped({"GaitDatasetB-silh/001.tar.gz": tar(FRAMES, "w:gz"), "__MACOSX/._001.tar.gz": b"nothing"})
    prepare("CASIA-B", download(**{name: data}), tmp_path / "out", workers=1)
    assert content(tmp_path / "out") == wanted


def test_an_archive_in_an_archive_is_named_by_where_it_lies_in_the_download(download, tmp_path):
    whole = tar(FRAMES, "w:gz")
    raw = download(GaitDatasetB_silh__zip=zipped({"silh/001.tar.gz": whole, "silh/002.tar.gz": whole[:-40]}))
    with pytest.raises(ValueError, match=r"GaitDatasetB_silh\.zip: silh/002\.tar\.gz: cut off or damaged") as refused:
        prepare("CASIA-B", raw, tmp_path / "out", workers=1)
    assert str(refused.value).startswith(str(raw))


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "zip"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_archives_that_are_cut_off_are_named(kind, share, download, tmp_path):
    whole = {
        "tar": tar(FRAMES),
        "tar.gz": tar(FRAMES, "w:gz"),
        "tar.xz": tar(FRAMES, "w:xz"),
        "zip": zipped(FRAMES),
    }[kind]
    name = f"001.{kind}"
    if kind == "tar":  # tar fills its end up with zeros
        whole = whole[: 512 * 2 * (len(FRAMES) + 1)]
    raw = download(**{name.replace(".", "__"): whole[: int(len(whole) * share)]})
    with pytest.raises(ValueError, match=rf"001\.{kind}: cut off or damaged"):
        prepare("CASIA-B", raw, tmp_path / "out", workers=1)


def test_a_damaged_member_of_a_zip_costs_one_frame(download, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, data in FRAMES.items():
            file.writestr(name, data)
    data = bytearray(buffer.getvalue())
    at = bytes(data).index(FRAMES[f"{SEQUENCE}/002.png"]) + 40
    data[at] ^= 255
    report = prepare("CASIA-B", download(a__zip=bytes(data)), tmp_path / "out", workers=1)
    assert report.frames == 5
    assert report.dropped_frames["unreadable image"].examples[0].startswith(f"{SEQUENCE}/002.png: Bad CRC")


def test_a_member_that_is_no_frame_by_its_size_is_not_read(download, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST_FILE", 5000)
    large = {**FRAMES, f"{SEQUENCE}/006.png": bytes(10**6)}
    report = prepare("CASIA-B", download(a__zip=zipped(large)), tmp_path / "out", workers=1)
    assert report.frames == 6
    assert "1000000 bytes, a frame has at most 5000" in report.dropped_frames["unreadable image"].examples[0]


def test_a_large_compressed_tar_is_decompressed_to_disk(download, tmp_path, wanted, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST_IN_MEMORY", 2000)
    prepare("CASIA-B", download(a__tgz=tar(FRAMES, "w:gz")), tmp_path / "out", workers=1)
    assert content(tmp_path / "out") == wanted


def test_no_archive_fills_the_disk(download, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SPARE_DISK", 1 << 60)
    raw = download(a__zip=zipped({"001.tar": tar(FRAMES)}))
    with pytest.raises(ValueError, match=r"a\.zip: 001\.tar: needs 0\.0 GB"):
        prepare("CASIA-B", raw, tmp_path / "out", workers=1)


def test_archives_in_archives_end_somewhere(download, tmp_path):
    data = tar(FRAMES, "w:gz")
    for depth in range(5):
        data = zipped({f"{depth}.{'zip' if depth else 'tgz'}": data})
    with pytest.raises(ValueError, match="archives in archives"):
        prepare("CASIA-B", download(a__zip=data), tmp_path / "out", workers=1)


def test_what_is_unpacked_already_is_read_in_place_of_its_archive(download, tmp_path, wanted):
    raw = download(**{"001__tar__gz": b"not even an archive", "Silhouettes__7z": b"nor this"})
    for name, data in FRAMES.items():
        path = raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (raw / "Silhouettes").mkdir()
    report = prepare("CASIA-B", raw, tmp_path / "out", workers=1)
    assert report.left_out["unpacked beside it"].examples == ["001.tar.gz", "Silhouettes.7z"]
    for name, data in content(tmp_path / "out").items():
        assert name == "prepare-report.json" or data == wanted[name]


def zip_crypto(data: bytes, password: bytes) -> bytes:
    """PKWARE's traditional encryption, which the standard library reads and does not write."""
    keys = [0x12345678, 0x23456789, 0x34567890]

    def crc(value: int, byte: int) -> int:
        return zlib.crc32(bytes([byte]), value ^ 0xFFFFFFFF) ^ 0xFFFFFFFF

    def update(byte: int) -> None:
        keys[0] = crc(keys[0], byte)
        keys[1] = ((keys[1] + (keys[0] & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = crc(keys[2], keys[1] >> 24)

    for byte in password:
        update(byte)
    result = bytearray()
    for byte in bytes(11) + bytes([zlib.crc32(data) >> 24]) + data:
        key = keys[2] | 2
        result.append(byte ^ ((key * (key ^ 1)) >> 8 & 0xFF))
        update(byte)
    return bytes(result)


def encrypted_zip(members: dict[str, bytes], password: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, data in members.items():
            file.writestr(name, zip_crypto(data, password))
        for info in file.filelist:  # sizes and checksums are of what was encrypted
            data = members[info.filename]
            info.flag_bits |= 1
            info.file_size, info.CRC = len(data), zlib.crc32(data)
    # Local headers hold copies of the flags and sizes; readers look at the central directory and the flags.
    content = bytearray(buffer.getvalue())
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        for info in file.infolist():
            content[info.header_offset + 6] |= 1
    return bytes(content)


def test_encrypted_zips_need_their_password(download, tmp_path, wanted):
    raw = download(a__zip=encrypted_zip(FRAMES, b"of the owners"))
    with pytest.raises(ValueError, match=r"a\.zip: encrypted; give the owners' password \(--password\)"):
        prepare("CASIA-B", raw, tmp_path / "out", workers=1)
    with pytest.raises(ValueError, match=r"a\.zip: the password does not open it"):
        prepare("CASIA-B", raw, tmp_path / "out", workers=1, password="guessed")
    prepare("CASIA-B", raw, tmp_path / "out", workers=1, password="of the owners")
    assert content(tmp_path / "out") == wanted


FAKE_7Z = """#!{python}
import os, sys, zipfile
words = sys.argv[1:]
path, password = words[-1], next(word for word in words if word.startswith("-p"))
if password != "-psecret":
    sys.exit("ERROR: Wrong password?")
with zipfile.ZipFile(path) as file:
    if words[0] == "l":
        for info in file.infolist():
            print(f"Path = {{info.filename}}\\nSize = {{info.file_size}}\\n")
    else:
        target = next(word for word in words if word.startswith("-o"))[2:]
        file.extractall(target)
        os.symlink("/etc/passwd", os.path.join(target, "001/nm-01/000/007.png"))
"""


@pytest.fixture
def program(tmp_path, monkeypatch) -> Callable[[bool], None]:
    """Puts a stand-in for 7z, which reads zips, on the path; or nothing at all."""

    def install(there: bool) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        if there:
            (folder / "7z").write_text(FAKE_7Z.format(python=sys.executable))
            os.chmod(folder / "7z", 0o755)
        monkeypatch.setenv("PATH", str(folder))

    return install


def test_7z_needs_a_program_and_the_password(download, tmp_path, wanted, program):
    raw = download(**{"Silhouettes__7z": zipped(FRAMES)})
    program(False)
    with pytest.raises(ValueError, match=r"Silhouettes\.7z: needs the program 7z .* by hand .*\(Silhouettes/\)"):
        prepare("CASIA-B", raw, tmp_path / "out", workers=1, password="secret")
    program(True)
    with pytest.raises(ValueError, match=r"Silhouettes\.7z: 7z cannot unpack it .*Wrong password"):
        prepare("CASIA-B", raw, tmp_path / "out", workers=1)
    prepare("CASIA-B", raw, tmp_path / "out", workers=1, password="secret")
    assert content(tmp_path / "out") == wanted  # the link was not followed, and nothing unpacked was left


def test_7z_is_not_unpacked_where_its_members_lead_elsewhere(download, tmp_path, program):
    raw = download(a__7z=zipped({**FRAMES, "../evil.png": png()}))
    program(True)
    with pytest.raises(ValueError, match=r"member '\.\./evil\.png' leads out"):
        prepare("CASIA-B", raw, tmp_path / "out", workers=1, password="secret")
    assert not list(tmp_path.rglob("evil*"))


def test_zips_with_strong_encryption_are_left_to_the_program(download, tmp_path, wanted, program):
    data = bytearray(zipped(FRAMES))
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        names = [info.filename for info in file.infolist()]
    for name in names:  # the method of each member in the central directory
        at = bytes(data).rindex(name.encode()) - 46
        assert data[at : at + 4] == b"PK\x01\x02"
        data[at + 10] = 99
    raw = download(a__zip=bytes(data))
    program(False)
    with pytest.raises(ValueError, match="needs the program 7z"):
        prepare("CASIA-B", raw, tmp_path / "out", workers=1, password="secret")


def test_what_was_listed_once_is_not_listed_again(download, tmp_path, monkeypatch):
    path = download(a__zip=zipped({"001.tar.gz": tar(FRAMES, "w:gz")})) / "a.zip"
    first = unpack.contents(str(path), str(tmp_path / "work"), None)
    monkeypatch.setattr(unpack, "open_archive", lambda *_: pytest.fail("opened again"))
    assert unpack.contents(str(path), str(tmp_path / "work"), None) == first
