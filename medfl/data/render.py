"""A site's patches as the model will see them: rendered once into one array on disk, and found again.

A store found again imports neither MONAI nor an image library; `store_file.py` says by what it is found.

Microns per pixel. `data.mpp` is the resolution of the patches the model sees, so its field of view is size x mpp
microns wide. A site that states its own `mpp` has the central part of each image that covers this field cut out
(mirrored at the border where the image is smaller, down to half the field) and resized: structures then have one size
at all sites. Where one of the two is unknown the whole image is resized; `warn_of_resolution` says so, once a run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from medfl import config
from medfl.config.spelling import check_decodable
from medfl.data.catalog import brings_own_data
from medfl.data.images import images_below
from medfl.data.partition import SitePartition
from medfl.data.patch_store import I64, U8, PatchStore
from medfl.data.sources.source_registry import source_class
from medfl.data.stain import Stain, apply, profile
from medfl.data.store_file import Problems, open_store, store_digest, store_key
from medfl.data.store_pieces import PatchProgress, write_store
from medfl.errors import MedflError
from medfl.seeds import seed_for

if TYPE_CHECKING:
    from medfl.data.image_file import PatchReader

CHUNK = 256  # patches stained at a time
LISTING = 10  # unreadable patches named in a message
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RenderSettings:
    """Everything but the patches that shapes a site's pixels. Its fields are part of a store's key.

    Attributes:
        size: pixels a side of the result.
        field: pixels a side of the central part that is taken of the site's images; None for the whole.
        transforms: those of the pipeline, then those of the site.
        stain, strength: the site's simulated stain; None where there is none.
        seed: of the transforms; 0 without any.
    """

    size: int
    field: int | None
    transforms: list[config.Transform]
    stain: Stain | None
    strength: float
    seed: int


def render(
    pipeline: config.Pipeline, site: config.SiteConfig, share: SitePartition, progress: PatchProgress | None = None
) -> PatchStore:
    """The site's patches as the model will see them, from the cache or rendered now.

    Raises:
        MedflError: unreadable images under `on_bad_image: refuse` (listed), a split of nothing but such images, a
            transform that does not exist, fails or leaves nothing to be seen, no room on the disk.
    """
    source = share.catalog.source
    if source.gives_bags:
        raise MedflError(
            f"site {site.name}: `data.source: {source.kind}` gives the features of slides, and no pictures to be shown"
        )
    settings = render_settings(pipeline, site, source.reads_by_scale)
    jpeg = pipeline.data.store.jpeg if pipeline.data.store else None
    key = store_key(share, asdict(settings) | ({"jpeg": jpeg} if jpeg else {}))
    folder = pipeline.cache_dir / "stores" / key
    store = open_store(folder, site.name)
    if store is None:
        problems: Problems = {}
        patches = Renderer(share, settings, progress).patches
        store = write_store(folder, settings.size, site.name, len(share.rows), patches, problems, jpeg, progress)
    elif progress:
        progress(len(share.rows))
    images, problems = store
    kept = readable_rows(pipeline, share, problems)
    return PatchStore(
        site=site.name,
        images=images,
        digest=store_digest(key, kept.labels, kept.groups, kept.splits),
        mpp=pipeline.data.mpp if settings.field else None,
        folder=folder,
        **_slides(share, problems),
        jpeg=jpeg,
        **vars(kept),
    )


def _slides(share: SitePartition, problems: Problems) -> dict[str, Any]:
    """The slide of each readable patch, as a store has it; nothing where patches are not of slides."""
    names = share.catalog.source.slides([r for at, r in enumerate(share.references) if at not in problems])
    if names is None:
        return {}
    numbered, slides = np.unique(names, return_inverse=True)
    return {"slides": slides.astype(np.int64), "slide_names": tuple(map(str, numbered))}


@dataclass(frozen=True)
class ReadableRows:
    """What of a site's share could be read: fields of its store."""

    labels: I64
    groups: I64
    splits: dict[str, I64]
    names: tuple[str, ...]
    group_names: tuple[str, ...]
    skipped: int


def readable_rows(pipeline: config.Pipeline, share: SitePartition, problems: Problems) -> ReadableRows:
    """A site's share without what cannot be read.

    Raises:
        MedflError: something cannot be read under `on_bad_image: refuse` (listed), or nothing of a split.
    """
    one, several = share.catalog.source.file_words
    sentence = _list_problems(share.locations, problems, several) if problems else ""
    if problems and pipeline.data.on_bad_image == "refuse":
        raise MedflError(
            f"site {share.site}: {sentence}; replace or remove them, or set `data.on_bad_image: skip` to leave them out"
        )
    if problems:
        log.warning("site %s: %s; they are left out", share.site, sentence)
    readable = np.ones(len(share.rows), dtype=bool)
    readable[list(problems)] = False
    row_of = np.cumsum(readable) - 1
    splits = {name: row_of[positions[readable[positions]]] for name, positions in share.splits.items()}
    for name, rows in splits.items():
        if not len(rows):
            raise MedflError(f"site {share.site}: no {one} of its {name} split can be read; replace the files")
    return ReadableRows(
        labels=share.labels[readable],
        groups=share.groups[readable],
        splits=splits,
        names=tuple(name for name, keep in zip(share.names, readable, strict=True) if keep),
        group_names=share.catalog.group_names,
        skipped=len(problems),
    )


def read_patches(directory: Path, size: int) -> tuple[list[str], U8]:
    """Every image below a folder, unlabelled: relative names, sorted, and patches u8[N, size, size, 3].

    Raises:
        MedflError: no such folder, no image in it, or unreadable images (listed).
    """
    from medfl.data.decode import decode
    from medfl.data.image_file import image_readers
    from medfl.data.rgb import Unreadable

    if not directory.is_dir():
        raise MedflError(f"there is no folder {directory}; name a folder with images")
    try:
        paths = images_below(directory)
    except OSError as error:
        raise MedflError(f"{error.filename or directory} cannot be read: {error.strerror}") from None
    if not paths:
        raise MedflError(f"{directory} holds no image; name a folder with .jpeg, .png, .tif, .bmp or .webp files")
    check_decodable(map(str, paths), str(directory))
    results = list(decode(image_readers(paths), size))
    problems = {index: str(result) for index, result in enumerate(results) if isinstance(result, Unreadable)}
    if problems:
        problem_list = _list_problems([str(path) for path in paths], problems)
        raise MedflError(f"{directory}: {problem_list}; replace or remove them")
    names = [path.relative_to(directory).as_posix() for path in paths]
    return names, np.stack([result.image for result in results if not isinstance(result, Unreadable)])


def warn_of_resolution(pipeline: config.Pipeline, sites: Iterable[config.SiteConfig]) -> None:
    """One warning about all sites whose images do not simply show what the model sees: other microns per pixel, or
    unknown ones."""
    data, parts, silent = pipeline.data, [], []
    for site in sites:
        kind = source_class((site.data and site.data.source) or data.source)
        if kind.reads_by_scale or kind.gives_bags:
            continue
        if data.mpp is not None and site.mpp is not None:
            if site.mpp != data.mpp:
                field = _field(data, site)
                parts.append(
                    f"site {site.name}: {site.mpp:g} microns per pixel, the model sees {data.mpp:g}: the central "
                    f"{field} x {field} pixels of each image are resized"
                )
        elif brings_own_data(pipeline, site):  # dealt sites share one catalog, hence one scale
            silent.append(site.name)
    if silent:
        lacking = "the pipeline's `data.mpp`" if data.mpp is None else f"`mpp` of {', '.join(silent)}"
        parts.append(
            f"{lacking} is not stated, so whole images are resized and structures may differ in size between sites"
        )
    if parts:
        log.warning("%s", "; ".join(parts))


def render_settings(pipeline: config.Pipeline, site: config.SiteConfig, by_scale: bool) -> RenderSettings:
    """How a site's patches are rendered; `by_scale` where they are read at the microns per pixel of the model."""
    data, own = pipeline.data, brings_own_data(pipeline, site)
    strength = data.stain_strength if site.stain_strength is None else site.stain_strength
    stain = None
    if isinstance(site.stain, str):
        stain = profile(site.stain)
    elif site.stain is not None:
        stain = Stain(**site.stain.model_dump())
    if own and stain is not None:
        log.warning("site %s: its data are its own, so its `stain` is not applied", site.name)
    simulate = not own and stain is not None and strength > 0
    transforms = [*data.render, *site.render]
    return RenderSettings(
        size=data.size,
        field=data.size if by_scale else _field(data, site),
        transforms=transforms,
        stain=stain if simulate else None,
        strength=strength if simulate else 0.0,
        seed=seed_for(pipeline.seed, "render", site.name) if transforms else 0,
    )


def _field(data: config.Data, site: config.SiteConfig) -> int | None:
    """Pixels a side of the site's images that cover the model's field of view; None when unknown."""
    if data.mpp is None or site.mpp is None:
        return None
    return max(1, round(data.size * data.mpp / site.mpp))


class PatchList(Protocol):
    """Patches to be read, of one site: their names, a reader of each, and where each lies."""

    @property
    def site(self) -> str: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def readers(self) -> Sequence[PatchReader]: ...
    @property
    def locations(self) -> Sequence[str]: ...


class Renderer:
    """Renders a site's patches, some positions after others.

    Args:
        share: the site's part of a catalog, or other patches.
        settings: what shapes its pixels.
        progress: called with the number of patches each time some are done.

    Raises:
        MedflError: a transform that does not exist.
    """

    def __init__(self, share: PatchList, settings: RenderSettings, progress: PatchProgress | None = None) -> None:
        from medfl.data.transforms import Rendering

        self.share, self.settings, self.progress = share, settings, progress
        self.where = f"site {share.site}"
        self.names, self.readers = share.names, share.readers
        self.transform = Rendering(settings.transforms, self.where)
        self.stretches = 0

    def patches(self, positions: range, problems: Problems) -> Iterator[U8]:
        """The patches of some positions, up to CHUNK at a time; notes in `problems` what is wrong with a file.

        Raises:
            MedflError: no patch of the site can be read, or one cannot be read now for a reason that is not in its
                file; a transform that fails.
        """
        from medfl.data.decode import decode
        from medfl.data.image_file import ReadFailure
        from medfl.data.rgb import Unreadable

        settings, rows = self.settings, list[U8]()
        readers = self.readers[positions.start : positions.stop]
        for position, result in zip(positions, decode(readers, settings.size, settings.field), strict=True):
            if isinstance(result, ReadFailure):
                raise MedflError(
                    f"{self.where}: {self.share.locations[position]} cannot be read now ({result}), which need not be "
                    f"the file's fault, so nothing is noted of it; mend that and give the same command again"
                )
            if isinstance(result, Unreadable):
                problems[position] = str(result)
                continue
            self.stretches += not settings.field and result.width != result.height
            rows.append(self.transform(result.image, seed_for(settings.seed, self.names[position])))
            if len(rows) == CHUNK:
                yield self._chunk(rows)
        if rows:
            yield self._chunk(rows)
        if positions.stop == len(self.readers):
            self._conclude(problems)

    def _chunk(self, rows: list[U8]) -> U8:
        self.transform.check()
        chunk = np.stack(rows)
        rows.clear()
        if self.progress:
            self.progress(len(chunk))
        stain = self.settings.stain
        return chunk if stain is None else apply(chunk, stain, self.settings.strength)

    def _conclude(self, problems: Problems) -> None:
        """What is to be said of all patches. Raises MedflError where none can be read."""
        total = len(self.readers)
        if len(problems) == total:
            raise MedflError(f"{self.where}: {_list_problems(self.share.locations, problems)}; replace them")
        if self.stretches:
            text = "%s: %d of %d images are not square and were stretched to a square"
            log.warning(text, self.where, self.stretches, total)


def _list_problems(locations: Sequence[str], problems: Problems, what: str = "images") -> str:
    first = [f"{locations[position]} ({reason})" for position, reason in list(problems.items())[:LISTING]]
    more = f" and {len(problems) - LISTING} more" if len(problems) > LISTING else ""
    return f"{len(problems)} of {len(locations)} {what} cannot be read: {', '.join(first)}{more}"
