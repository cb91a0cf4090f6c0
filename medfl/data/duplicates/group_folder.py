"""Source groups of a folder of images, found by its pixels alone and written for `data.source_groups`."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medfl.config.spelling import check_decodable
from medfl.data.duplicates.keypoints import Keypoints, Progress, describe_patches
from medfl.data.duplicates.near_duplicates import Pair, find_pairs, linked
from medfl.data.image_file import image_readers
from medfl.data.images import IMAGE_SUFFIXES, images_below
from medfl.data.patch_store import I64
from medfl.data.rgb import Unreadable
from medfl.data.sources.lc25000 import LC25000_PARENT, ORGANS
from medfl.data.table_file import open_table
from medfl.errors import MedflError


@dataclass(frozen=True)
class Grouping:
    """The images below a folder and what connects them.

    Attributes:
        root: the folder.
        names: N paths below it, sorted.
        groups: i64[N], numbered in the order of their first images.
        pairs: proven pairs of any overlap, as positions in `names`.
        unreadable: names of images that cannot be read, and why. Each is a group of its own.
    """

    root: Path
    names: tuple[str, ...]
    groups: I64
    pairs: tuple[Pair, ...]
    unreadable: dict[str, str]

    @property
    def sizes(self) -> list[int]:
        """Images of each group."""
        return [count for _, count in sorted(Counter(self.groups.tolist()).items())]

    def across_classes(self) -> list[tuple[str, dict[str, int]]]:
        """Groups with images in several class folders: the first image, and images per class folder."""
        members: dict[int, list[str]] = {}
        for name, group in zip(self.names, self.groups.tolist(), strict=True):
            members.setdefault(group, []).append(name)
        counts = [(names[0], dict(Counter(map(_class_folder, names)))) for names in members.values()]
        return [(first, classes) for first, classes in counts if len(classes) > 1]

    def write(self, path: Path) -> None:
        """Write `path,source_group`, whole or not at all.

        A group is named after the path and content of its first image, so equal names elsewhere are equal groups.

        Raises:
            MedflError: the file cannot be written, or an image has gone.
        """
        group_names: dict[int, str] = {}
        try:
            with open_table(path, ("path", "source_group")) as writer:
                for name, group in zip(self.names, self.groups.tolist(), strict=True):
                    if group not in group_names:
                        content = name.encode() + (self.root / name).read_bytes()
                        group_names[group] = "copies-" + hashlib.sha256(content).hexdigest()[:12]
                    writer.writerow([name, group_names[group]])
        except OSError as error:
            raise MedflError(f"{error.filename or path}: {error.strerror}; {path} is not written") from None


def group_folder(root: Path, overlap: float, progress: Progress) -> Grouping:
    """Link the images below a folder, at any depth and whatever their class, that show one piece of tissue.

    Args:
        root: the folder that `data.root` will name.
        overlap: how much of the smaller field two images must share to be linked.
        progress: called with every step, how much of it is done, and of how much.

    Raises:
        MedflError: no such folder, no image in it, or none that can be read.
    """
    root = Path(os.path.expanduser(root)).absolute()
    if not os.path.isdir(root):
        raise MedflError(f"there is no folder {root}; name the folder that holds the images")
    try:
        paths = images_below(root)
    except OSError as error:
        raise MedflError(f"{root} cannot be read: {error.strerror}") from None
    if not paths:
        raise MedflError(f"{root} holds no image; images end in {', '.join(IMAGE_SUFFIXES)} and lie at any depth")
    names = tuple(path.relative_to(root).as_posix() for path in paths)
    check_decodable(names, str(root))
    images = describe_patches(image_readers(paths), progress)
    unreadable = {name: str(image) for name, image in zip(names, images, strict=True) if isinstance(image, Unreadable)}
    if len(unreadable) == len(names):
        raise MedflError(f"{root}: none of {len(names)} images can be read, the first is {list_unreadable(unreadable)}")
    pairs = find_pairs(readable(images), progress)
    return Grouping(root, names, linked(len(names), pairs, overlap), tuple(pairs), unreadable)


def readable(images: Sequence[Keypoints | Unreadable]) -> list[Keypoints]:
    """The images' keypoints, none for an unreadable one: it then has no copies."""
    return [Keypoints.none() if isinstance(image, Unreadable) else image for image in images]


def list_unreadable(unreadable: dict[str, str]) -> str:
    """The first three of the unreadable images, with reasons."""
    first = [f"{name} ({reason})" for name, reason in list(unreadable.items())[:3]]
    return ", ".join(first) + (f" and {len(unreadable) - 3} more" if len(unreadable) > 3 else "")


def _class_folder(name: str) -> str:
    """The class folder of an image: the first below the root that is not one of LC25000's upper folders."""
    folders = [part for part in name.split("/")[:-1] if part not in (LC25000_PARENT, *ORGANS)]
    return folders[0] if folders else ""
