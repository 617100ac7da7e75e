"""Identifiers use the words of Kubernetes, SRE and asyncio, not those of this project alone."""

import io
import keyword
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).parent.parent
SOURCES = sorted(
    file
    for folder in ("linstor_affinity_events", "tests", "benchmarks", "demo")
    for file in (TOP / folder).rglob("*.py")
)

OLD_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        anew answer answered answering answers astonished astray bare breath calm crowd crowded
        crowds disorder floor haste hint hints lane lanes ledger like likes look looked looking
        looks marks mend mended mends news note noted notes overtime patience people play played
        player plays pretend pretended probed rehearsal rehearse rehearsed rival room rooms scene
        scenes settled shelf sight sighting slack somebody stage stages stale stranger strangers
        swap swapped sweep sweeper tell teller telling tells theirs toll told trouble truth turn
        turns twin twins unfit unwound verdict verdicts walk watchman wears weight
        """,
    )
)
ALLOWED = {
    "marks": {"marks", "test_the_writer_of_the_entry_marks_the_volume"},  # pytest.param(marks=...)
    "note": {"note"},  # hypothesis.note
    "notes": {  # of a release, and those that helm prints
        "NOTES",
        "test_a_tag_requires_notes_with_a_date",
        "test_the_changelog_has_notes_for_the_current_version",
        "test_the_install_notes_name_both_ways_to_remove_the_other_controller",
        "test_the_notes_are_those_of_the_version_alone",
        "test_the_patches_in_the_install_notes_add_a_sidecar_to_the_controller",
    },
    "stage": {"nodeStageSecretRef"},  # a field of the CSI source
    "truth": {"ground_truth"},
    "walk": {"walk"},  # ast.walk
}
"""Names that others gave, or where the word means what it says."""


def words_of(name: str) -> set[str]:
    """`_seenBy_two` has the words seen, by and two."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def names_in(file: Path) -> Iterator[str]:
    yield from file.relative_to(TOP).with_suffix("").parts
    for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
        if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
            yield token.string


def old_words_in(name: str) -> set[str]:
    return {word for word in words_of(name) & OLD_WORDS if name not in ALLOWED.get(word, ())}


def test_old_words_are_recognised_in_any_spelling() -> None:
    assert old_words_in("_until_looked_at") == {"looked"}
    assert old_words_in("ProbedSweeper") == {"probed", "sweeper"}
    assert old_words_in("nodeStageSecretRef") == set()
    assert old_words_in("placement") == set()


def test_no_identifier_has_an_old_word() -> None:
    found = {
        f"{file.relative_to(TOP)}: {name}"
        for file in SOURCES
        for name in set(names_in(file))
        if old_words_in(name)
    }

    assert len(SOURCES) > 400
    assert found == set()
