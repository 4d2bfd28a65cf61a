"""Tiny media, made here: what they are is told by their bytes."""

from __future__ import annotations

import base64
import io
import json
import math
import struct
import wave
import zipfile
import zlib
from typing import Any


def png(
    width: int = 24, height: int = 16, colour: tuple[int, int, int] = (200, 40, 40), **extra: bytes
) -> bytes:
    """One colour. `extra` chunks come before the picture; a header may lie about its size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    drawn = width * height <= 10**6  # of more, the header alone is read
    rows = (b"\0" + bytes(colour) * width) * height if drawn else b"\0"
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    chunks += [(name.encode(), body) for name, body in extra.items()]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, body) for name, body in chunks)


def wav(hertz: int = 440, seconds: float = 0.4) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        samples = (int(9000 * math.sin(2 * math.pi * hertz * i / 8000)) for i in range(int(8000 * seconds)))
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return out.getvalue()


def gif(pictures: int = 1, width: int = 2, height: int = 2) -> bytes:
    picture = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00"
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + b"\0\0\0\xff\xff\xff"
        + picture * pictures
        + b";"
    )


def jpeg(width: int = 8, height: int = 8) -> bytes:
    """Enough of one to tell its size."""
    return (
        b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x0b\x08"
        + struct.pack(">HH", height, width)
        + b"\x01\x01\x11\x00\xff\xd9"
    )


def webp(width: int = 8, height: int = 8, *, moves: bool = False) -> bytes:
    """Enough of one to tell its size."""
    body = (
        bytes([2 if moves else 0, 0, 0, 0])
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + body


def uri(content: bytes, declared: str = "image/png") -> str:
    return f"data:{declared};base64,{base64.b64encode(content).decode()}"


def row(chosen: Any, rejected: Any, prompt: Any = "Which picture is better?") -> dict[str, Any]:
    def turn(role: str, said: Any) -> list[dict[str, Any]]:
        return [{"role": role, "content": said}]

    return {
        "prompt": turn("user", prompt),
        "chosen": turn("assistant", chosen),
        "rejected": turn("assistant", rejected),
    }


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in rows)


def zipped(files: dict[str, bytes], *, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            archive.writestr(info, content)
    return out.getvalue()
