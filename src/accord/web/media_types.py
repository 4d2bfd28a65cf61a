"""What bytes are: by the bytes alone, against a short list, with limits on what a browser must unpack.

Names, endings and declared types are not believed. SVG and HTML are not on the list, since they can hold
scripts; neither are pictures that move, since nothing may play by itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from accord.errors import DataError

ENDINGS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/ogg": "ogg",
    "video/mp4": "mp4",
    "video/webm": "webm",
}
LISTED = "PNG, JPEG, GIF, WebP, MP3, WAV, Ogg, MP4 and WebM"
MOST_BYTES = {"image": 10 << 20, "audio": 32 << 20, "video": 48 << 20}
LONGEST_SIDE = 16_384
MOST_PIXELS = 50_000_000
MP4_BRANDS = (
    b"isom",
    b"iso2",
    b"iso4",
    b"iso5",
    b"iso6",
    b"mp41",
    b"mp42",
    b"avc1",
    b"dash",
    b"M4V ",
    b"MSNV",
)


def type_of(content: bytes) -> str:
    """The type of a medium. DataError, which says why, for anything that is not shown."""
    kind = _by_signature(content)
    if not kind:
        raise DataError(f"the bytes are none of {LISTED}")
    limit = MOST_BYTES[kind.partition("/")[0]]
    if len(content) > limit:
        raise DataError(f"{len(content) >> 20} MB are too many: at most {limit >> 20} MB of {kind}")
    if kind.startswith("image/"):
        _check_picture(content, kind)
    return kind


def _by_signature(content: bytes) -> str:
    head = content[:64]
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF"):
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(head[8:12], "")
    if head.startswith(b"OggS"):
        return "audio/ogg"
    if head[4:8] == b"ftyp" and head[8:12] in MP4_BRANDS:
        return "video/mp4"
    if head.startswith(b"\x1aE\xdf\xa3") and b"webm" in head:
        return "video/webm"
    frame = len(head) > 3 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2 and head[2] >> 4 not in (0, 15)
    return "audio/mpeg" if head.startswith(b"ID3") or frame else ""


def _check_picture(content: bytes, kind: str) -> None:
    read = {"image/png": _png, "image/jpeg": _jpeg, "image/gif": _gif, "image/webp": _webp}[kind]
    try:
        width, height, moves = read(content)
    except (struct.error, IndexError):
        raise DataError(f"the {kind} is cut off or broken: its size cannot be read") from None
    if not (0 < width <= LONGEST_SIDE and 0 < height <= LONGEST_SIDE and width * height <= MOST_PIXELS):
        raise DataError(
            f"a picture of {width} x {height} pixels; each side has 1 to {LONGEST_SIDE}, and all "
            f"together are at most {MOST_PIXELS // 10**6} million"
        )
    if moves:
        raise DataError("a picture that moves would play by itself; bring it in as a video")


Picture = tuple[int, int, bool]  # width, height, whether it moves


def _png(content: bytes) -> Picture:
    if content[12:16] != b"IHDR":
        raise IndexError
    width, height = struct.unpack_from(">II", content, 16)
    return width, height, any(name == b"acTL" for name in _png_chunks(content))


def _png_chunks(content: bytes) -> Iterator[bytes]:
    """The names of the chunks before the picture's data."""
    at = 8
    while at + 8 <= len(content) and (name := content[at + 4 : at + 8]) not in (b"IDAT", b"IEND"):
        yield name
        at += 12 + int(struct.unpack_from(">I", content, at)[0])


def _jpeg(content: bytes) -> Picture:
    at = 2
    while True:
        if content[at] != 0xFF:
            raise IndexError
        marker = content[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker in range(0xC0, 0xD0) and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", content, at + 5)
            return width, height, False
        elif marker in (0xD8, 0x01) or marker in range(0xD0, 0xD8):
            at += 2
        else:
            at += 2 + max(2, int(struct.unpack_from(">H", content, at + 2)[0]))


def _gif(content: bytes) -> Picture:
    width, height, packed = struct.unpack_from("<HHB", content, 6)
    at, pictures = 13 + (3 << (packed & 7) + 1 if packed & 0x80 else 0), 0
    while content[at] != 0x3B and pictures < 2:
        if content[at] == 0x21:
            at = _after_blocks(content, at + 2)
        elif content[at] == 0x2C:
            pictures += 1
            local = content[at + 9]
            at = _after_blocks(content, at + 11 + (3 << (local & 7) + 1 if local & 0x80 else 0))
        else:
            raise IndexError
    return width, height, pictures > 1


def _after_blocks(content: bytes, at: int) -> int:
    while content[at]:
        at += 1 + content[at]
    return at + 1


def _webp(content: bytes) -> Picture:
    form = content[12:16]
    if form == b"VP8X":
        width = 1 + int.from_bytes(content[24:27], "little")
        height = 1 + int.from_bytes(content[27:30], "little")
        return width, height, bool(content[20] & 2)
    if form == b"VP8L":
        bits = int(struct.unpack_from("<I", content, 21)[0])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, False
    if form == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        return width & 0x3FFF, height & 0x3FFF, False
    raise IndexError
