"""`source: tissue`: drawn tissue in LC25000's layout, written once into the cache; or such tissue under `data.root`."""

from __future__ import annotations

from pathlib import Path

from medfl.data.sources.class_folders import ClassFolders
from medfl.data.sources.lc25000 import LEAK, lc25000_folders
from medfl.data.sources.source_registry import register


@register
class GeneratedTissue(ClassFolders):
    """Tissue of `data.tissue`, written first where there is none."""

    kind = "tissue"
    dealt_only = True
    drawn = "Tissue"
    augmentation = LEAK

    def find_root(self) -> Path:
        """The folder in the cache, or what `data.root` names."""
        from medfl.data.synthetic.tissue import tissue_digest, write_tissue

        if self.spec.root is not None:
            return super().find_root()
        parameters = {"classes": list(self.spec.classes), **self.spec.data.tissue.model_dump()}
        return write_tissue(self.spec.cache / f"tissue-{tissue_digest(parameters)}", **parameters)

    def class_folders(self) -> list[Path]:
        """The folders that stand for classes, sorted by name."""
        return lc25000_folders(self.root)
