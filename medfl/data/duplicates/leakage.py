"""Near-copies between the sites and splits of a pipeline: what a wrong or missing list of source groups lets through.

The patches themselves are compared, not what a simulated stain makes of them. Two patches of one class in one split of
one site may be copies of each other; a copy in training data of a patch that the model is tested on makes the test too
easy, and a copy under another class makes one of the two labels wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medfl.data.duplicates.group_folder import list_unreadable, readable
from medfl.data.duplicates.keypoints import Progress, describe_patches
from medfl.data.duplicates.near_duplicates import Pair, find_pairs
from medfl.data.image_file import PatchReader
from medfl.data.partition import Partition
from medfl.data.patch_store import I64
from medfl.data.rgb import Unreadable
from medfl.data.sources.source import Source
from medfl.data.table_file import open_table
from medfl.errors import MedflError

# Columns of the CSV of pairs; a is trained on where either is.
ENDS = ("site_a", "split_a", "file_a", "site_b", "split_b", "file_b")
COLUMNS = ("leak", *ENDS, "overlap", "matches", "turn", "zoom", "mirrored", "class_a", "class_b")


class CopiesLeak(MedflError):
    """Patches the model is tested on have near-copies in its training data; exit code 1."""

    exit_code = 1


@dataclass(frozen=True)
class PatchPlace:
    """One split of one site."""

    site: str
    split: str

    def __str__(self) -> str:
        return f"{self.site}/{self.split}"


@dataclass(frozen=True)
class Crossing:
    """The pairs between two places; where they leak, `one` is trained on and `other` tested on.

    `pairs` have enough overlap and `patches` of `one` and of `other` are in them; `partial` other pairs have less.
    """

    one: PatchPlace
    other: PatchPlace
    pairs: int
    patches: tuple[int, int]
    partial: int
    leak: bool


@dataclass(frozen=True)
class Search:
    """What was found among a pipeline's patches.

    Attributes:
        places: all splits of all sites that hold patches.
        place: i64[N], index into `places`.
        locations: where the N patches lie, as their sources describe it.
        classes: what the N patches are labelled.
        pairs: proven pairs between different places, or different classes too, of any overlap; first and second are
            positions in `locations`. Two files of the same bytes under two labels are one, without matches.
        overlap: what a pair must share of the smaller field to count as copies.
        unreadable: patches that were left out, and why.
    """

    places: tuple[PatchPlace, ...]
    place: I64
    locations: tuple[str, ...]
    classes: tuple[str, ...]
    pairs: tuple[Pair, ...]
    overlap: float
    unreadable: dict[str, str]

    def leaking(self, pair: Pair) -> bool:
        """Whether one of the two is trained on and the other is tested on."""
        return {self._split(pair.first), self._split(pair.second)} == {"train", "test"}

    def leaks(self) -> list[Pair]:
        """Copies in training data of patches that are tested on, those with most matches first."""
        leaks = [pair for pair in self.pairs if pair.overlap >= self.overlap and self.leaking(pair)]
        return sorted(leaks, key=lambda pair: -pair.matches)

    def contradictions(self) -> list[Pair]:
        """Copies under two labels, in one place or two, those with the largest overlap first."""
        pairs = [p for p in self.pairs if p.overlap >= self.overlap and self.classes[p.first] != self.classes[p.second]]
        return sorted(pairs, key=lambda pair: (-pair.overlap, -pair.matches))

    def tested(self) -> tuple[int, int]:
        """How many test patches have a copy in training data, and how many test patches there are."""
        leaks = {end for pair in self.leaks() for end in (pair.first, pair.second) if self._split(end) == "test"}
        return len(leaks), sum(self.places[index].split == "test" for index in self.place)

    def crossings(self) -> list[Crossing]:
        """Counts for every two places with a pair between them: leaks first, then by numbers."""
        between: dict[tuple[int, int], list[tuple[int, int, float]]] = {}
        for pair in self.pairs:
            one, other = self.ends(pair)
            if self.place[one] == self.place[other]:
                continue  # two labels in one place
            crossing = between.setdefault((int(self.place[one]), int(self.place[other])), [])
            crossing.append((one, other, pair.overlap))
        rows = []
        for (one, other), pairs in sorted(between.items()):
            copies = [(a, b) for a, b, overlap in pairs if overlap >= self.overlap]
            patches = len({a for a, _ in copies}), len({b for _, b in copies})
            leak = bool(copies) and self.places[one].split == "train" and self.places[other].split == "test"
            partial = len(pairs) - len(copies)
            rows.append(Crossing(self.places[one], self.places[other], len(copies), patches, partial, leak))
        return sorted(rows, key=lambda row: (not row.leak, -row.pairs, -row.partial))

    def ends(self, pair: Pair) -> tuple[int, int]:
        """Both patches of a pair: one that is trained on first, else in the order of places."""
        one, other = sorted((pair.first, pair.second), key=lambda end: (self._split(end) != "train", self.place[end]))
        return one, other

    def show(self, patch: int) -> str:
        """Where a patch is, and where it lies."""
        return f"{self._at(patch)} {self.locations[patch]}"

    def write(self, path: Path) -> None:
        """Write all pairs, leaks first. Names files: the table stays where it was made."""
        try:
            with open_table(path, COLUMNS) as writer:
                writer.writerows(self._rows())
        except OSError as error:
            raise MedflError(f"{path} cannot be written: {error.strerror}; name another file with --out") from None

    def _at(self, patch: int) -> PatchPlace:
        return self.places[int(self.place[patch])]

    def _split(self, patch: int) -> str:
        return self._at(patch).split

    def _rows(self) -> Iterator[list[object]]:
        leaks = self.leaks()
        first = set(leaks)
        rest = [pair for pair in self.pairs if pair not in first]
        for number, pair in enumerate([*leaks, *rest]):
            row: list[object] = ["yes" if number < len(leaks) else "no"]
            for end in self.ends(pair):
                place = self._at(end)
                row += [place.site, place.split, self.locations[end]]
            figures = [f"{pair.overlap:.3f}", pair.matches, f"{pair.turn:.1f}", f"{pair.zoom:.3f}"]
            classes = (self.classes[end] for end in self.ends(pair))
            yield [*row, *figures, "yes" if pair.mirrored else "no", *classes]


def find_leaks(
    partition: Partition, overlap: float, skip_unreadable: bool, progress: Progress, two_labels: bool = False
) -> Search:
    """Compare the patches of different sites and splits.

    Args:
        partition: which patch is where.
        overlap: how much of the smaller field two patches must share to count as copies.
        skip_unreadable: leave out images that cannot be read, as `data.on_bad_image: skip` says.
        progress: called with every step, how much of it is done, and of how much.
        two_labels: compare patches of different classes in one split too.

    Raises:
        MedflError: images that cannot be read, unless they are to be skipped; data that are no images.
    """
    for share in partition.sites:
        if share.catalog.source.gives_bags:
            raise MedflError(
                f"site {share.site}: `data.source: {share.catalog.source.kind}` gives features of slides, in which no "
                f"near-copies are looked for; source groups are their patients"
            )
    places: list[PatchPlace] = []
    readers: list[PatchReader] = []
    locations: list[str] = []
    place: list[int] = []
    labels: list[int] = []
    contents: list[tuple[Source, str]] = []
    for share in partition.sites:
        site_readers, site_locations, references = share.readers, share.locations, share.references
        for split, positions in share.splits.items():
            readers += [site_readers[position] for position in positions]
            locations += [site_locations[position] for position in positions]
            place += [len(places)] * len(positions)
            labels += share.labels[positions].tolist()
            contents += [(share.catalog.source, references[position]) for position in positions]
            places.append(PatchPlace(share.site, split))
    images = describe_patches(readers, progress)
    results = zip(locations, images, strict=True)
    bad = {location: str(image) for location, image in results if isinstance(image, Unreadable)}
    if bad and not skip_unreadable:
        raise MedflError(
            f"{len(bad)} of {len(locations)} images cannot be read: {list_unreadable(bad)}; replace or remove them, "
            f"or set `data.on_bad_image: skip` to leave them out"
        )
    where, classes = np.array(place, np.int64), partition.sites[0].catalog.classes
    apart = where * len(classes) + np.array(labels, np.int64) if two_labels else where
    pairs = find_pairs(readable(images), progress, apart)
    distinct = {(pair.first, pair.second) for pair in pairs}
    pairs += [
        Pair(first, second, 1.0, 0, 0.0, 1.0, False)
        for first, second in _same_bytes(contents, labels, [location in bad for location in locations])
        if (first, second) not in distinct
    ]
    names = tuple(classes[label] for label in labels)
    return Search(tuple(places), where, tuple(locations), names, tuple(pairs), overlap, bad)


def _same_bytes(
    contents: Sequence[tuple[Source, str]], labels: Sequence[int], skipped: Sequence[bool]
) -> Iterator[tuple[int, int]]:
    """Patches of one content under two labels: each with the first of another label. The search sees no blank ones."""
    first: dict[tuple[str, str], dict[int, int]] = {}
    for patch, ((source, reference), label) in enumerate(zip(contents, labels, strict=True)):
        if skipped[patch]:
            continue
        holders = first.setdefault((source.kind, source.fingerprint(reference)), {})
        other = next((holder for its_label, holder in holders.items() if its_label != label), None)
        if other is not None:
            yield other, patch
        holders.setdefault(label, patch)
