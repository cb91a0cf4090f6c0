"""`source: mitoses`: normal and atypical mitotic figures from several scanners, `SITE/CLASS/SLIDE/crop.jpg`.

Below `data.root` lies a folder for each site; a site's patches are those of the folder that is named as the site is.
Sub-folders of its class folders are slides, one a patient. A root that holds class folders itself is one site's own.
"""

from __future__ import annotations

from pathlib import Path

from medfl.data.sources.class_folders import ClassFolders, visible_folders
from medfl.data.sources.source_registry import register
from medfl.errors import MedflError, nearest


@register
class Mitoses(ClassFolders):
    """One site's crops (MIDOG++, doi 10.1038/s41597-023-02327-4; labels doi 10.1007/978-3-658-47422-5_25)."""

    kind = "mitoses"
    root_variable = "MEDFL_MITOSES"

    def find_root(self) -> Path:
        """The site's folder. Raises MedflError where none has its name, or where the data are dealt."""
        root, site, where = super().find_root(), self.spec.site, self.spec.where
        if not site:
            raise MedflError(
                f"{where}: `data.source: mitoses` holds what sites really have, a folder for each; set "
                f"`data.mode: own`, and name sites as the folders below {root}"
            )
        if (root / site).is_dir():
            return root / site
        names = [folder.name for folder in visible_folders(root)]
        if set(names) & {*self.spec.classes, *(self.spec.labels or {})}:
            return root
        raise MedflError(
            f"{where}: no folder {site} in {root} (`data.root`), only {', '.join(names) or 'none at all'}; name the "
            f"site as its folder, or point `data.root` of the site file at it.{nearest(site, names)}"
        )
