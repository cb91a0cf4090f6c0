"""`source: features`: feature vectors that another tool has extracted, one file a slide, and the group's table.

A slide is one item, and its patient its source group. `bag_files/` says which layouts are read; without a root, feature
folders are drawn, one for each site.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from medfl.config import GeneratedBags
from medfl.data.bag_files.bag_layout import BagLayout, find_bags
from medfl.data.bag_files.label_table import LabelTable, read_labels
from medfl.data.left_out import first_few
from medfl.data.patch_store import U8
from medfl.data.rgb import Unreadable
from medfl.data.sources.file_source import FileSource
from medfl.data.sources.source import PatchEntry
from medfl.data.sources.source_registry import register
from medfl.errors import MedflError


@register
class FeatureFolders(FileSource):
    """The slides of a folder of features."""

    kind = "features"
    patch_words = file_words = "slide", "slides"
    gives_bags = True
    drawn = "Features"

    def find_root(self) -> Path:
        """What `data.root` names, or the folder that is drawn."""
        if self.spec.root is not None:
            return super().find_root()
        from medfl.data.synthetic.generated_bags import generated_bags

        settings = self.spec.data.bags or GeneratedBags()
        return generated_bags(self.spec.cache, self.spec.site, self.spec.classes, settings)

    def check_root(self, root: Path, start: str) -> None:
        """Raise MedflError unless the root is a folder."""
        if not root.is_dir():
            raise MedflError(f"{start} {root}, which is no folder; name the folder of features")

    @functools.cached_property
    def layout(self) -> BagLayout:
        """The files of features below the root."""
        return find_bags(self.root, self.spec.where)

    @functools.cached_property
    def labels(self) -> LabelTable:
        """What the tables say."""
        return read_labels(self.spec.features, self.root, self.spec.where)

    def group_tables(self) -> list[Path]:
        """None: the table of labels says whose a slide is."""
        return []

    def entries(self) -> list[PatchEntry]:
        """Every slide that has features and a label."""
        return self.list_files()

    def list_files(self) -> list[PatchEntry]:
        """Every slide that has features and a label, sorted by label and slide.

        Raises:
            MedflError: slides of the table have no features, unless `on_bad_image: skip` leaves them out.
        """
        files, table, where = self.layout.files, self.labels, self.spec.where
        absent = [slide for slide in table.slides if slide not in files]
        if len(absent) == len(table.slides):
            raise MedflError(
                f"{where}: none of the {len(absent)} slides of {table.file} has features in {self.root}, which has "
                f"those of {first_few(files)}; names of files and slides must agree"
            )
        if absent and self.spec.data.on_bad_image == "refuse":
            raise MedflError(
                f"{where}: {len(absent)} of {len(table.slides)} slides of {table.file} have no features in {self.root}"
                f": {first_few(absent)}; extract them or remove the rows, or set `data.on_bad_image: skip`"
            )
        entries = [
            PatchEntry(own.label, slide, files[slide], own.patient)
            for slide, own in table.slides.items()
            if slide in files
        ]
        return sorted(entries, key=lambda entry: (entry.word, entry.key))

    def own_groups(self, entries: Sequence[PatchEntry]) -> list[str] | None:
        """The patients."""
        return [entry.group for entry in entries]

    def no_groups(self, entries: Sequence[PatchEntry]) -> str:
        """Never asked for: a table without patients is refused."""
        raise NotImplementedError

    def left_out(self, references: Sequence[str]) -> list[str]:
        """Features that no row names, rows without features, slides of patients without a label."""
        table, taken = self.labels, set(references)
        parts = {
            "files of features that no row names": [s for s, path in self.layout.files.items() if path not in taken],
            f"slides of {table.file.name} without features": [s for s in table.slides if s not in self.layout.files],
            "slides of patients without a label": table.unlabelled,
        }
        return [f"Left out: {len(slides):,} {what} ({first_few(slides)})." for what, slides in parts.items() if slides]

    def slide_prints(self, references: Sequence[str]) -> list[str]:
        """Digests of the slides' features: equal ones are of one slide."""
        return sorted(set(self.fingerprints(references)))

    def read(self, reference: str) -> U8:
        """No patch."""
        raise Unreadable("features of a slide, and no picture")
