"""A site's slides as bags: every tile goes through a frozen network once, and its vectors are kept.

They are kept slide by slide in the cache, by all that shapes them, so that a stopped run goes on where it was and a
further slide costs itself alone; and of the whole site as a store of bags, which is what a run reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from medfl import config
from medfl.data.atomic_file import PRIVATE_FOLDER
from medfl.data.bag_files.bag_reader import tile_text
from medfl.data.bag_store import BagStore, FeatureOrigin
from medfl.data.feature_file import feature_file, load_features, save_features
from medfl.data.optics import F32
from medfl.data.partition import SitePartition
from medfl.data.patch_store import U8
from medfl.data.render import RenderSettings, render_settings
from medfl.data.render_bags import bag_store
from medfl.data.rgb import Unreadable
from medfl.data.slides.slide_collection import SlideCollection
from medfl.data.slides.tissue_tiles import TissueTiles, of_tiles, tiles_print
from medfl.data.sources.slide_bags import SlideBags
from medfl.data.store_file import ArrayKind, Problems, open_store, store_facts, store_key, write_rows_of

ENCODED_VERSION = 1


class Encoder(Protocol):
    """What gives the vectors of tiles: its name, their length, and what shapes them, as plain values."""

    @property
    def name(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    def __call__(self, tiles: U8) -> F32:
        """f32[n, F] of u8[n, S, S, 3]."""


def encode_bags(
    pipeline: config.Pipeline,
    site: config.SiteConfig,
    share: SitePartition,
    source: SlideBags,
    encoder: Encoder,
    say: Callable[[str], None] = lambda sentence: None,
) -> BagStore:
    """The bags of a site's slides, from the cache or computed now.

    Args:
        pipeline: it, the site and its share of the slides.
        source: that of the share.
        encoder: the frozen network.
        say: who is told before there is much to compute.

    Raises:
        MedflError: a slide damaged where a tile lies, unless `on_bad_image: skip`; no room on the disk; a slide that
            cannot be read now.
    """
    look = render_settings(pipeline, site, by_scale=True)
    vectors = SlideFeatures(source.collection, look, encoder, pipeline.cache_dir)
    folder = pipeline.cache_dir / "stores" / store_key(share, vectors.shaping)
    store = open_store(folder, share.site)
    if store is None:
        tiles = [source.bags[reference] for reference in share.references]
        count = sum(len(each.x) for each in tiles)
        say(f"Site {share.site}: features of {count:,} tiles on {len(tiles):,} slides")
        problems: Problems = {}
        origin = [encoder.name, tile_of(source.collection, look)]
        kind = ArrayKind("<f4", (encoder.dim,), {"sizes": [len(each.x) for each in tiles], "origin": origin})

        def bags() -> Iterator[F32]:
            for position, each in enumerate(tiles):
                try:
                    yield vectors.of(each)
                except Unreadable as error:
                    problems[position] = str(error)

        store = write_rows_of(kind, folder, share.site, bags(), count, problems)
    return bag_store(pipeline, share, folder, store, FeatureOrigin(*store_facts(folder)["origin"]))


def tile_of(collection: SlideCollection, look: RenderSettings) -> str:
    """What an encoder sees of a slide, in words: "224 px at 0.5 mpp"."""
    return tile_text(look.size, collection.scale.size * collection.scale.mpp)


class SlideFeatures:
    """The vectors of slides, each slide's kept in the cache.

    Args:
        collection: the slides.
        look: how a tile is rendered.
        encoder: the frozen network.
        cache: the folder of the cache.
    """

    def __init__(self, collection: SlideCollection, look: RenderSettings, encoder: Encoder, cache: Path) -> None:
        self.collection, self.look, self.encoder = collection, look, encoder
        self.folder = cache / "slides" / "features"
        self.shaping: dict[str, Any] = {"encoded": ENCODED_VERSION, **encoder.settings, "look": asdict(look)}

    def of(self, tiles: TissueTiles) -> F32:
        """The vectors f32[n, F] of a slide's tiles.

        Raises:
            Unreadable: the slide is damaged where a tile is. MedflError: it cannot be read now. OSError: nor the cache.
        """
        self.folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        file = feature_file(self.folder, self.shaping | {"slide": tiles_print(self.collection, tiles.slide)})
        if (before := load_features(file, len(tiles.x))) is not None:
            features: F32 = before.numpy()
            return features
        features = of_tiles(self.encoder, self.collection, tiles, self.look)
        save_features(file, torch.from_numpy(features))
        return features
