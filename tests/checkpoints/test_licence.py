from pathlib import Path

import pytest

from nmerge_core.checkpoints.licence import licence


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: llama3\n---\n", "llama3"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense: [a, b]\n---\n", None),
        ("---\ntags: [merge]\n---\nlicense: mit\n", None),
        ("# A model\n---\nlicense: mit\n---\n", None),  # not at its head
        ("---\nlicense: *nobody\n---\n", None),
        ("---\n- license\n---\n", None),
    ],
)
def test_it_is_what_the_head_of_the_card_says(card: str, expected: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence(str(tmp_path)) == expected


def test_without_a_card_or_a_folder_there_is_none(tmp_path: Path) -> None:
    assert licence(str(tmp_path)) is None and licence(str(tmp_path / "nowhere")) is None
    assert licence("nobody/has-this") is None
