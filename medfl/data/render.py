"""A site's patches rendered once into one array on disk, and found again by what they are.

A store lies under `<cache>/stores/<key>/`. The key is a sha256 of the file names, sizes and contents (of files above
64 KiB the first, middle and last 16 KiB), of everything that shapes the pixels, and of STORE_VERSION; so a copied data
folder finds its store again, and changed data or settings do not. A found store imports neither MONAI nor an image
library.

Microns per pixel. `data.mpp` is the resolution of the patches the model sees, so its field of view is size x mpp
microns wide. A site that states its own `mpp` has the central part of each image that covers this field cut out
(mirrored at the border where the image is smaller, down to half the field) and resized: structures then have one size
at all sites. Where one of the two is unknown the whole image is resized, and a warning says so.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from medfl import config
from medfl.data.catalog import brings_own_data
from medfl.data.images import images_below
from medfl.data.partition import SitePartition
from medfl.data.patch_store import I64, U8, PatchStore
from medfl.data.stain import Stain, apply, profile
from medfl.errors import MedflError
from medfl.seeds import seed_for

STORE_VERSION = 1
WHOLE = 1 << 16  # bytes up to which a file is hashed whole
BLOCK = 1 << 14
CHUNK = 256  # patches stained at a time
LISTED = 10  # unreadable files named in a message
Progress = Callable[[int], None]
Files = Sequence[tuple[str, Path]]
Bad = dict[int, str]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Look:
    """Everything but the files that shapes a site's pixels; `field` is in pixels of the site's images."""

    size: int
    field: int | None
    transforms: list[config.Transform]
    stain: Stain | None
    strength: float
    seed: int


def render(
    pipeline: config.Pipeline, site: config.SiteConfig, share: SitePartition, progress: Progress | None = None
) -> PatchStore:
    """The site's patches as the model will see them, from the cache or rendered now.

    `progress`, if given, is called with the number of patches each time some are done.

    Raises:
        MedflError: unreadable images under `on_bad_image: refuse` (listed), a split of nothing but such images, a
            transform that does not exist or fails, no room on the disk.
    """
    look = _look(pipeline, site)
    files = list(zip(share.names, share.paths, strict=True))
    key = _key(site, files, look)
    folder = pipeline.cache_dir / "stores" / key
    stored = _open(folder)
    if stored is None:
        stored = _write(folder, site, files, look, progress)
    elif progress:
        progress(len(files))
    images, bad = stored
    if bad and pipeline.data.on_bad_image == "refuse":
        raise MedflError(
            f"site {site.name}: {_listed(files, bad)}; replace or remove them, or set `data.on_bad_image: skip` to "
            f"leave them out"
        )
    if bad:
        log.warning("site %s: %s; they are left out", site.name, _listed(files, bad))
    kept = np.ones(len(files), dtype=bool)
    kept[list(bad)] = False
    labels, groups = share.labels[kept], share.groups[kept]
    row_of = np.cumsum(kept) - 1
    splits = {name: row_of[positions[kept[positions]]] for name, positions in share.splits.items()}
    for name, rows in splits.items():
        if not len(rows):
            raise MedflError(f"site {site.name}: no image of its {name} split can be read; replace the files")
    return PatchStore(
        site=site.name,
        images=images,
        labels=labels,
        groups=groups,
        splits=splits,
        digest=_digest(key, labels, groups, splits),
        mpp=pipeline.data.mpp if look.field else None,
        names=tuple(name for (name, _), keep in zip(files, kept, strict=True) if keep),
        group_names=share.catalog.group_names,
        skipped=len(bad),
    )


def read_patches(directory: Path, size: int) -> tuple[list[str], U8]:
    """Every image below a folder, unlabelled: relative names, sorted, and patches u8[N, size, size, 3].

    Raises:
        MedflError: no such folder, no image in it, or unreadable images (listed).
    """
    from medfl.data.decode import decode
    from medfl.data.rgb import Unreadable

    if not directory.is_dir():
        raise MedflError(f"there is no folder {directory}; name a folder with images")
    paths = images_below(directory)
    if not paths:
        raise MedflError(f"{directory} holds no image; name a folder with .jpeg, .png, .tif, .bmp or .webp files")
    results = list(decode(paths, size))
    bad = {index: str(result) for index, result in enumerate(results) if isinstance(result, Unreadable)}
    if bad:
        raise MedflError(f"{directory}: {_listed([(path.name, path) for path in paths], bad)}; replace or remove them")
    names = [path.relative_to(directory).as_posix() for path in paths]
    return names, np.stack([result.image for result in results if not isinstance(result, Unreadable)])


def _look(pipeline: config.Pipeline, site: config.SiteConfig) -> _Look:
    data, own = pipeline.data, brings_own_data(pipeline, site)
    strength = data.stain_strength if site.stain_strength is None else site.stain_strength
    stain = None
    if isinstance(site.stain, str):
        stain = profile(site.stain)
    elif site.stain is not None:
        stain = Stain(**site.stain.model_dump())
    if own and stain is not None:
        log.warning("site %s: its data are its own, so its `stain` is not applied", site.name)
    stained = not own and stain is not None and strength > 0
    transforms = [*data.render, *site.render]
    return _Look(
        size=data.size,
        field=_field(data, site, own),
        transforms=transforms,
        stain=stain if stained else None,
        strength=strength if stained else 0.0,
        seed=seed_for(pipeline.seed, "render", site.name) if transforms else 0,
    )


def _field(data: config.Data, site: config.SiteConfig, own: bool) -> int | None:
    """Pixels a side of the site's images that cover the model's field of view; None when unknown."""
    if data.mpp is None or site.mpp is None:
        if own:  # dealt sites share one catalog, hence one scale
            log.warning(
                "site %s: %s is not stated, so whole images are resized and structures may differ in size from those "
                "of other sites",
                site.name,
                "the pipeline's `data.mpp`" if data.mpp is None else "its `mpp`",
            )
        return None
    field = max(1, round(data.size * data.mpp / site.mpp))
    if site.mpp != data.mpp:
        log.warning(
            "site %s: %g microns per pixel, the model sees %g: the central %d x %d pixels of each image are resized",
            *(site.name, site.mpp, data.mpp, field, field),
        )
    return field


def _key(site: config.SiteConfig, files: Files, look: _Look) -> str:
    try:
        with ThreadPoolExecutor(4) as pool:
            prints = list(pool.map(_fingerprint, (path for _, path in files)))
    except OSError as error:
        raise MedflError(f"site {site.name}: {error.filename} cannot be read: {error.strerror}") from None
    names = [name for name, _ in files]
    text = json.dumps({"version": STORE_VERSION, "look": asdict(look), "names": names, "files": prints})
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _fingerprint(path: Path) -> tuple[int, str]:
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= WHOLE:
            digest.update(file.read())
        else:
            for start in (0, (size - BLOCK) // 2, size - BLOCK):
                file.seek(start)
                digest.update(file.read(BLOCK))
    return size, digest.hexdigest()[:16]


def _open(folder: Path) -> tuple[U8, Bad] | None:
    """Images u8[kept, S, S, 3] and what was left out (position: reason); None without a sound store."""
    try:
        record = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        if list(images.shape) != record["shape"]:
            raise ValueError(images.shape)
        return images, {int(position): reason for position, reason in record["bad"].items()}
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, TypeError):  # a damaged store is rendered again
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _write(
    folder: Path, site: config.SiteConfig, files: Files, look: _Look, progress: Progress | None
) -> tuple[U8, Bad]:
    """Render beside the store's place, then rename: a store is whole or absent, whoever else writes it."""
    need = len(files) * look.size**2 * 3
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise MedflError(
            f"the cache {folder.parent} cannot be written ({error.strerror}); name another folder under `data.cache` "
            f"or in the environment variable MEDFL_CACHE"
        ) from None
    try:
        free = shutil.disk_usage(part).free
        if free < need * 1.05:
            raise MedflError(
                f"site {site.name}: its patches need {need / 1e9:.1f} GB and {folder.parent} has {free / 1e9:.1f} GB "
                f"free; make room, or name another folder under `data.cache`"
            )
        _fill(part, site, files, look, progress)
        part.chmod(0o755)
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first with the same store
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    stored = _open(folder)
    if stored is None:
        raise MedflError(f"the store {folder} was lost while it was read; run again")
    return stored


def _fill(part: Path, site: config.SiteConfig, files: Files, look: _Look, progress: Progress | None) -> None:
    from medfl.data.decode import decode
    from medfl.data.rgb import Unreadable
    from medfl.data.transforms import rendering

    where = f"site {site.name}"
    transform = rendering(look.transforms, where)
    shape = (len(files), look.size, look.size, 3)
    images = np.lib.format.open_memmap(part / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    bad: Bad = {}
    row = finished = stretched = 0

    def finish(until: int) -> int:
        if look.stain is not None and until > finished:
            images[finished:until] = apply(images[finished:until], look.stain, look.strength)
        if progress:
            progress(until - finished)
        return until

    for position, result in enumerate(decode([path for _, path in files], look.size, look.field)):
        if isinstance(result, Unreadable):
            bad[position] = str(result)
            continue
        stretched += not look.field and result.width != result.height
        images[row] = transform(result.image, seed_for(look.seed, files[position][0]))
        row += 1
        if row - finished == CHUNK:
            finished = finish(row)
    finish(row)
    images.flush()
    if not row:
        raise MedflError(f"{where}: {_listed(files, bad)}; replace them")
    if stretched:
        log.warning("%s: %d of %d images are not square and were stretched to a square", where, stretched, len(files))
    if bad:
        np.save(part / "kept.npy", images[:row], allow_pickle=False)
        os.replace(part / "kept.npy", part / "images.npy")
    record = {"version": STORE_VERSION, "shape": [row, *shape[1:]], "bad": bad}
    (part / "store.json").write_text(json.dumps(record), encoding="utf-8")


def _listed(files: Files, bad: Bad) -> str:
    named = [f"{files[position][1]} ({reason})" for position, reason in list(bad.items())[:LISTED]]
    more = f" and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    return f"{len(bad)} of {len(files)} images cannot be read: {', '.join(named)}{more}"


def _digest(key: str, labels: I64, groups: I64, splits: dict[str, I64]) -> str:
    digest = hashlib.sha256(key.encode())
    for name in sorted(splits):
        digest.update(name.encode() + splits[name].astype("<i8").tobytes())
    digest.update(labels.astype("<i8").tobytes() + groups.astype("<i8").tobytes())
    return digest.hexdigest()[:16]
