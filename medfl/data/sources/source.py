"""What a source of patches does: it lists labelled patches and reads one of them by its reference.

A reference is a text that only its source understands: a path below a folder, a key of an archive, a place on a slide.
A new kind of source is one file in this package with a class that `source_registry.register` decorates; a pipeline
or site file then names it under `data.source`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from medfl import config
from medfl.config.spelling import one_form, show, spelt_alike
from medfl.data.patch_store import U8
from medfl.errors import MedflError, nearest


@dataclass(frozen=True)
class SourceSpec:
    """What a pipeline or site file says about its data.

    Attributes:
        where: that file's subject, "pipeline NAME" or "site NAME", with which messages begin.
        root: `data.root`, None where there is none.
        source_groups: `data.source_groups`, None where there is none.
        classes: `task.classes`.
        labels: a site's own words for classes, `{word: class}`, null for a word whose patches are left out; None for
            data that are dealt.
        distinct_names: `data.distinct_names`, names of source groups that are not the same for being spelt alike.
        data: the pipeline's `data` section, for the settings of one kind of source.
        cache: folder for what a source generates.
        patches: the site's patches where a program hands them over (`source: program`), else None.
        site: the site's name; None for data that are dealt.
        mpp: microns per pixel that the site's file states, None where there is none.
        features: `data.features`, the site's own keys over the pipeline's.
    """

    where: str
    root: str | None
    source_groups: str | None
    classes: tuple[str, ...]
    labels: dict[str, str | None] | None
    data: config.Data
    cache: Path
    distinct_names: tuple[str, ...] = ()
    patches: Any = None
    site: str | None = None
    mpp: float | None = None
    features: config.FeatureTables = field(default_factory=config.FeatureTables)


@dataclass(frozen=True)
class PatchEntry:
    """One patch as its source lists it.

    Attributes:
        word: the source's own word for the class.
        key: what the patch is called within its class, the same wherever the data lie.
        reference: what the source reads the patch by.
        group: the patient, slide or tile it was cut from; empty where the source does not say.
    """

    word: str
    key: str
    reference: str
    group: str = ""

    @property
    def name(self) -> str:
        """What the patch is called at its site."""
        return f"{self.word}/{self.key}"


@dataclass(frozen=True)
class PatchGroups:
    """The source group of every patch of a list.

    Attributes:
        names: a name for each patch.
        scope: within one scope, equal names mean the same source, also across catalogs.
        unknown: near copies may lie in different groups.
        published: the names mean the same wherever the data lie.
        by_patch: every patch is taken for a source of its own and the names are those of patches, not of patients.
    """

    names: list[str]
    scope: str
    unknown: bool = False
    published: bool = False
    by_patch: bool = False


class Source(ABC):
    """One kind of source, opened where a pipeline or site file says its data lie.

    Making one raises MedflError where there are no such data.
    """

    kind: ClassVar[str]
    """The word under `data.source`."""
    dealt_only: ClassVar[bool] = False
    """No site can bring data of this kind; they are dealt to simulated institutions."""
    class_word: ClassVar[str] = "label"
    """What messages call that which names a class."""
    patch_words: ClassVar[tuple[str, str]] = "patch", "patches"
    """What messages call a patch, and several."""
    reads_by_scale: ClassVar[bool] = False
    """Patches are read at the microns per pixel that the model sees, whatever those of the site's files are."""

    file_words: ClassVar[tuple[str, str]] = "image", "images"
    """What messages call that which may be damaged."""
    gives_bags: ClassVar[bool] = False
    """What it lists are bags of feature vectors, which `medfl.data.render_bags` reads, and no patches."""

    drawn: ClassVar[str] = ""
    """What it draws from a seed where no root names data, "Tissue" for example; empty where it draws nothing."""

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the data lie, for messages at the site."""

    @abstractmethod
    def entries(self) -> list[PatchEntry]:
        """Every patch, in an order that depends on names only. Raises MedflError for data that cannot be used."""

    @abstractmethod
    def read(self, reference: str) -> U8:
        """The patch u8[H, W, 3], RGB and upright. Raises `medfl.data.rgb.Unreadable`, which says why it cannot."""

    @abstractmethod
    def byte_count(self, reference: str) -> int:
        """How large the patch is where it is stored; cheap, it is asked of every patch at every start."""

    @abstractmethod
    def fingerprint(self, reference: str) -> str:
        """A digest of the patch's whole content: another one whenever the patch changes, the same wherever it lies."""

    def fingerprints(self, references: Sequence[str]) -> list[str]:
        """The fingerprint of each of several patches; asked for all patches at every start."""
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(self.fingerprint, references))

    def identity(self, reference: str) -> Hashable:
        """What the patch is, however it is reached: equal for two references, also of two sources, to one patch."""
        return self.kind, self.place, reference

    def slide_prints(self, references: Sequence[str]) -> list[str]:
        """Digests of the slides that references are of, sorted, by which a slide is known at another site whatever it
        is called; none where patches are all there is."""
        return []

    def describe(self, reference: str) -> str:
        """Where the patch lies, for people and for tables that stay at the site."""
        return reference

    def outside(self, references: Sequence[str]) -> str | None:
        """The first of references written by others that leads out of this source's data, or None."""
        return None

    def absent(self, references: Sequence[str]) -> list[str]:
        """Those of references written by others that lead to nothing."""
        present = {entry.reference for entry in self.entries()}
        return [reference for reference in references if reference not in present]

    def left_out(self, references: Sequence[str]) -> list[str]:
        """Sentences on what lies among the data and is none of these patches, all that the source lists."""
        return []

    def groups(self, entries: Sequence[PatchEntry]) -> PatchGroups:
        """The source group of every listed patch.

        Raises:
            MedflError: nothing says which patches belong together.
        """
        if self.spec.source_groups == "ignore":
            return PatchGroups([entry.name for entry in entries], self.place, unknown=True, by_patch=True)
        if not all(entry.group for entry in entries):
            raise MedflError(
                f"{self.spec.where}: {self.place} does not say which patches come from one source; set "
                f"`source_groups: ignore`, which marks every result as leaky"
            )
        return PatchGroups([entry.group for entry in entries], self.place)

    def slides(self, references: Sequence[str]) -> list[str] | None:
        """The slide of each patch by name; None where patches are not of slides."""
        return None

    def drops(self, word: str) -> bool:
        """Whether patches under the source's own word are left out: `labels: {word: null}`."""
        word = one_form(word)
        return (self.spec.labels or {}).get(word, word) is None

    def class_index(self, word: str) -> int:
        """The class that the source's own word stands for, which is none that it drops. Raises MedflError for a word
        that is no class."""
        labels, classes = self.spec.labels or {}, self.spec.classes
        word = one_form(word)
        name = labels.get(word) or word
        if name in classes:
            return classes.index(name)
        mapped = f", mapped to {name} by `labels`," if word in labels else ""
        remedy = "rename it" if self.spec.labels is None else f"map it in the site file, `labels: {{{word}: ...}}`"
        for alike, _ in spelt_alike([*classes, name]):
            raise MedflError(
                f'{self.spec.where}: the {self.class_word} "{show(word)}" of {self.place}{mapped} is the class '
                f'"{alike}" of `task.classes` in another spelling; {remedy}'
            )
        raise MedflError(
            f'{self.spec.where}: the {self.class_word} "{word}" of {self.place}{mapped} is no class of `task.classes` '
            f"({', '.join(classes)}); {remedy}"
            f"{'' if self.spec.labels is None else ' (null leaves it out)'}, or point `data.root` at a part without it."
            f"{nearest(name, [*classes, *labels])}"
        )
