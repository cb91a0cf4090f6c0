"""`source: program`: patches that the program at work holds: arrays, a list of images, or a PyTorch data set.

No file can say where they are, so a run over them is carried out, resumed and measured by a program
(`medfl.run(..., patches={site: ...})`), never by the command line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from medfl.config.program_parts import PROGRAM
from medfl.data.patch_store import U8
from medfl.data.pixels import patch_list, to_patch
from medfl.data.rgb import Unreadable
from medfl.data.sources.source import PatchEntry, PatchGroups, Source, SourceSpec
from medfl.data.sources.source_registry import register
from medfl.errors import MedflError

UNKNOWN = "unknown"
ASK_FOR_GROUPS = (
    'state `groups`, the patient or slide of each patch; "unknown" says that nobody knows, and marks every result as '
    "leaky"
)


class SitePatches:
    """One site's labelled patches in memory.

    Args:
        images: u8[N, H, W, 3] of NumPy or PyTorch (also [N, 3, H, W], grey, or floating point in [0, 1]), or a list of
            arrays, tensors or Pillow images of any sizes. They are kept by reference.
        labels: N names of classes, or i64[N], indices into `task.classes`.
        groups: N names of the patient, slide or tile that each patch was cut from, one namespace for all sites of a
            run: a name at two sites is one patient, and refused. "unknown" where nobody knows it, which marks every
            result as leaky.

    Raises:
        MedflError: lengths that differ, an image that is none, no statement on groups.
    """

    def __init__(self, images: Any, labels: Sequence[Any], groups: Sequence[Any] | str) -> None:
        try:
            patches = patch_list(images)
        except Unreadable as error:
            raise MedflError(f"`images`: {error}") from None
        self._fill(lambda row: patches[row], list(labels), groups, len(patches))

    @classmethod
    def from_dataset(cls, dataset: Any, groups: Sequence[Any] | str | None = None) -> SitePatches:
        """The items of a map-style `torch.utils.data.Dataset`: (image, label), or (image, label, group).

        Every item is read once now and once when patches are rendered, and none is kept. It has to be the same both
        times, so the data set must not augment; a pipeline's `training.augment` does.

        Args:
            dataset: has `len` and items by number; images and labels as `SitePatches` takes them.
            groups: as `SitePatches` takes them, where the items have two parts.

        Raises:
            MedflError: as `SitePatches`; items of another form.
        """
        count = len(dataset)
        labels, own = [], []
        patches = cls.__new__(cls)
        prints = []
        for row in range(count):
            item = dataset[row]
            if not isinstance(item, tuple | list) or len(item) != (3 if groups is None else 2):
                form = f"{len(item)} parts" if isinstance(item, tuple | list) else f"a {type(item).__name__}"
                raise MedflError(
                    f"`dataset`: item {row} is {form}, not (image, label, group); "
                    f"{ASK_FOR_GROUPS if groups is None else 'items of two parts go with `groups`'}"
                )
            labels.append(item[1])
            own.append(item[2] if groups is None else None)
            prints.append(_fingerprint(item[0], row))
        patches._fill(lambda row: dataset[row][0], labels, own if groups is None else groups, count, prints)
        return patches

    def _fill(
        self,
        image: Callable[[int], Any],
        labels: list[Any],
        groups: Sequence[Any] | str | None,
        count: int,
        prints: list[str] | None = None,
    ) -> None:
        if groups is None or (isinstance(groups, str) and groups != UNKNOWN):
            raise MedflError(ASK_FOR_GROUPS)
        if not count:
            raise MedflError("`images` holds no patch")
        for key, values in (("labels", labels), ("groups", labels if isinstance(groups, str) else list(groups))):
            if len(values) != count:
                raise MedflError(f"`{key}` has {len(values)} values for {count} patches; give one for each")
        self.image = image
        self.labels = [label if isinstance(label, str) else _index(label, row) for row, label in enumerate(labels)]
        self.groups = None if isinstance(groups, str) else [_plain(group) for group in groups]
        self.prints = prints or [_fingerprint(image(row), row) for row in range(count)]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, row: int) -> U8:
        """Patch number `row`, u8[H, W, 3]. Raises Unreadable where it is no longer what it was."""
        patch = to_patch(self.image(row))
        if _digest(patch) != self.prints[row]:
            raise Unreadable(
                "another image than when it was first read; take random transforms out of the data set, and leave "
                "arrays as they are while a run uses them"
            )
        return patch


@register
class ProgramPatches(Source):
    """The patches of a site that a program hands over."""

    kind = PROGRAM
    class_word = "label"

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        if spec.patches is None:
            raise MedflError(
                f"{spec.where}: its patches are those of a program (`data.source: {PROGRAM}`), which no file holds; "
                f"hand them over again from Python, `patches={{SITE: medfl.SitePatches(...)}}`"
            )
        self.patches: SitePatches = spec.patches

    @property
    def place(self) -> str:
        """The program."""
        return f"the patches of {self.spec.where} in memory"

    def entries(self) -> list[PatchEntry]:
        """Every patch, by its number."""
        own, width = self.patches, len(str(len(self.patches)))
        groups = own.groups or [""] * len(own)
        rows = range(len(own))
        return [PatchEntry(self._word(row), f"{row:0{width}d}", str(row), groups[row]) for row in rows]

    def _word(self, row: int) -> str:
        """The class of a patch, by name."""
        label, classes = self.patches.labels[row], self.spec.classes
        if isinstance(label, str):
            return label
        if not 0 <= label < len(classes):
            raise MedflError(
                f"{self.spec.where}: the label {label} of patch {row} is no index into the {len(classes)} classes of "
                f"`task.classes`; count from 0, or give names"
            )
        return classes[label]

    def read(self, reference: str) -> U8:
        """The patch u8[H, W, 3]."""
        return self.patches.read(int(reference))

    def byte_count(self, reference: str) -> int:
        """Not known before it is read; a fingerprint says whether it is the same."""
        return 0

    def fingerprint(self, reference: str) -> str:
        """A digest of its pixels."""
        return self.patches.prints[int(reference)]

    def identity(self, reference: str) -> Hashable:
        """The same object at two sites is one patch."""
        return PROGRAM, id(self.patches), reference

    def describe(self, reference: str) -> str:
        """Its number."""
        return f"{PROGRAM}:{reference}"

    def groups(self, entries: Sequence[PatchEntry]) -> PatchGroups:
        """As stated; one namespace for all sites of the program."""
        if self.patches.groups is None:
            return PatchGroups([entry.name for entry in entries], self.place, unknown=True, by_patch=True)
        return PatchGroups([entry.group for entry in entries], PROGRAM)


def _index(label: Any, row: int) -> int:
    value = _plain(label)
    try:
        return int(value)
    except ValueError:
        raise MedflError(f"`labels`: {value} of patch {row} is neither the name of a class nor its index") from None


def _plain(value: Any) -> str:
    """A number of NumPy or PyTorch, or a name, as text. Raises MedflError for nothing."""
    text = str(value.item() if hasattr(value, "item") else value).strip() if value is not None else ""
    if not text or text == "nan":
        raise MedflError(f"a patch has no group or label; {ASK_FOR_GROUPS}")
    return text


def _fingerprint(image: Any, row: int) -> str:
    try:
        return _digest(to_patch(image))
    except Unreadable as error:
        raise MedflError(f"`images`: patch {row} is {error}") from None


def _digest(patch: U8) -> str:
    """128 bits over shape and grey levels, hexadecimal."""
    return hashlib.sha256(f"{patch.shape}".encode() + np.ascontiguousarray(patch).tobytes()).hexdigest()[:32]
