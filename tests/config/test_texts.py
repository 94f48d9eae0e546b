"""Sizes and times have units; what a stranger wrote controls no terminal."""

import pytest

from mrecg.config.texts import bytes_of, duration, printable, size


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"), (3e9, "2.8 GiB")],
)
def test_sizes(number: float, text: str) -> None:
    assert size(number) == text
    if "bytes" not in text:
        assert bytes_of(text) == pytest.approx(number, rel=0.03)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1 second"), (12.4, "12 seconds"), (150, "2 minutes"), (7200, "2.0 hours")],
)
def test_times(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_control_characters_are_replaced() -> None:
    assert printable("größer\n\x1b[2J\r\x07\u202e") == "größer\n?[2J???"
